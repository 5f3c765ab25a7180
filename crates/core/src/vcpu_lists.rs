//! How lists with an entry for each vCPU are written in a recording: a guest may have hundreds, and they are
//! in it many times a second.
//!
//! Counters are `[cpu, run_delay, throttled, nr_throttled]`, times in nanoseconds, `null` where unknown. Holds
//! are `[how many, hold]` for vCPUs in a row that are held alike, which mostly are all. Recordings up to
//! version 3 have an object for each vCPU instead, which is read as well.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decision::Hold;
use crate::telemetry::sample::VcpuCounters;

/// Most vCPUs of a guest: QEMU's own limit.
pub const MOST_VCPUS: usize = 4096;

/// For `serde(with)` on a list of counters.
pub mod counters {
    use super::*;

    type Row = (Option<u64>, Option<u64>, Option<u64>, Option<u64>);

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Row(Row),
        Object(VcpuCounters),
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &[VcpuCounters], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|counters| {
            let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let VcpuCounters { cpu, run_delay, throttled, nr_throttled } = *counters;
            (cpu.map(nanos), run_delay.map(nanos), throttled.map(nanos), nr_throttled)
        }))
    }

    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<VcpuCounters>, D::Error> {
        let entries = Vec::<Entry>::deserialize(from)?;
        let read = |entry| match entry {
            Entry::Object(counters) => counters,
            Entry::Row((cpu, run_delay, throttled, nr_throttled)) => VcpuCounters {
                cpu: cpu.map(Duration::from_nanos),
                run_delay: run_delay.map(Duration::from_nanos),
                throttled: throttled.map(Duration::from_nanos),
                nr_throttled,
            },
        };
        Ok(entries.into_iter().map(read).collect())
    }
}

/// For `serde(with)` on a list of holds.
pub mod holds {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Row(usize, Hold),
        Single(Hold),
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &[Hold], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.chunk_by(PartialEq::eq).map(|alike| (alike.len(), alike[0])))
    }

    /// # Errors
    /// Those of the deserializer, and a list for more than [`MOST_VCPUS`].
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Hold>, D::Error> {
        let mut holds = Vec::new();
        for entry in Vec::<Entry>::deserialize(from)? {
            let (count, hold) = match entry {
                Entry::Row(count, hold) => (count, hold),
                Entry::Single(hold) => (1, hold),
            };
            if count > MOST_VCPUS - holds.len() {
                let problem = format!("holds of more than {MOST_VCPUS} vCPUs");
                return Err(serde::de::Error::custom(problem));
            }
            holds.resize(holds.len() + count, hold);
        }
        Ok(holds)
    }
}

/// The same for a list that may be absent.
pub mod optional_holds {
    use super::*;

    #[derive(Serialize)]
    struct Written<'a>(#[serde(serialize_with = "super::holds::serialize")] &'a [Hold]);

    #[derive(Deserialize)]
    struct Read(#[serde(deserialize_with = "super::holds::deserialize")] Vec<Hold>);

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(list: &Option<Vec<Hold>>, to: S) -> Result<S::Ok, S::Error> {
        list.as_deref().map(Written).serialize(to)
    }

    /// # Errors
    /// Those of [`holds::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Hold>>, D::Error> {
        Ok(Option::<Read>::deserialize(from)?.map(|Read(list)| list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lists {
        #[serde(with = "counters")]
        counters: Vec<VcpuCounters>,
        #[serde(with = "holds")]
        holds: Vec<Hold>,
        #[serde(with = "optional_holds")]
        observed: Option<Vec<Hold>>,
    }

    #[test]
    fn equal_holds_are_written_once_and_counters_as_numbers() {
        let counters = VcpuCounters {
            cpu: Some(Duration::from_nanos(1_000_000_007)),
            nr_throttled: Some(3),
            ..VcpuCounters::default()
        };
        let lists = Lists {
            counters: vec![counters; 2],
            holds: vec![Hold::Free, Hold::Free, Hold::Stopped],
            observed: Some(vec![Hold::Free; 256]),
        };
        let written = json!({
            "counters": [[1_000_000_007_u64, null, null, 3], [1_000_000_007_u64, null, null, 3]],
            "holds": [[2, "free"], [1, "stopped"]],
            "observed": [[256, "free"]],
        });
        assert_eq!(serde_json::to_value(&lists).unwrap(), written);
        assert_eq!(serde_json::from_value::<Lists>(written).unwrap(), lists);
    }

    #[test]
    fn the_form_of_earlier_versions_is_read() {
        let earlier = json!({
            "counters": [{ "cpu": { "secs": 1, "nanos": 7 }, "wait": null, "held": null, "holds": 3 }],
            "holds": ["free", "stopped"],
            "observed": null,
        });
        let lists: Lists = serde_json::from_value(earlier).unwrap();
        assert_eq!(lists.counters[0].cpu, Some(Duration::new(1, 7)));
        assert_eq!(lists.counters[0].nr_throttled, Some(3));
        assert_eq!(lists.holds, [Hold::Free, Hold::Stopped]);
    }

    #[test]
    fn a_count_that_would_take_all_memory_is_refused() {
        for count in [usize::MAX, MOST_VCPUS + 1] {
            let lists = json!({ "counters": [], "holds": [[count, "free"]], "observed": null });
            let error = serde_json::from_value::<Lists>(lists).unwrap_err().to_string();
            assert!(error.contains("more than 4096 vCPUs"), "{error}");
        }
    }
}

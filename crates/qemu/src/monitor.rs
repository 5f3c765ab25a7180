//! A QEMU at either end of a migration: its state, its counters and settings, its commands.

use std::time::Duration;

use landfall_core::telemetry::sample::{Migration, Ram, Status};
use landfall_core::units::{ByteRate, Bytes, Share};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::qmp::{Address, Events, Pending, Qmp, QmpError};

/// A connection to a QEMU, either end of a migration.
#[derive(Debug)]
pub struct Machine {
    qmp: Qmp,
}

/// What QEMU says a guest is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// The guest runs.
    Running,
    /// It waits for an incoming migration.
    AwaitsMigration,
    /// It stands still, in QEMU's words (`paused`, `postmigrate`, `io-error`, ...).
    Stopped(String),
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunState::Running => f.pad("running"),
            RunState::AwaitsMigration => f.pad("inmigrate"),
            RunState::Stopped(word) => f.pad(word),
        }
    }
}

/// The settings of migration that landfall changes; `None` is not known to this QEMU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Parameters by QEMU's name.
    pub parameters: Map<String, Value>,
    /// Capabilities by QEMU's name.
    pub capabilities: Map<String, Value>,
}

impl Settings {
    /// Sets a parameter where QEMU knows it.
    fn set(&mut self, known: &Settings, name: &str, value: impl Into<Value>) {
        if known.parameters.contains_key(name) {
            self.parameters.insert(name.to_owned(), value.into());
        }
    }

    /// Asks for a blackout of at most `limit`.
    pub fn downtime_limit(&mut self, known: &Settings, limit: Duration) {
        // QEMU takes whole milliseconds, at most 2,000,000.
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).clamp(1, 2_000_000);
        self.set(known, "downtime-limit", ms);
    }

    /// Whether the blackout is among these settings.
    pub fn limits_downtime(&self) -> bool {
        self.parameters.contains_key("downtime-limit")
    }

    /// The limit of pre-copy that is set, of settings that were read; `None` where there is none.
    pub fn bandwidth_limit(&self) -> Option<ByteRate> {
        let bytes = self.parameters.get("max-bandwidth")?.as_u64()?;
        (bytes > 0).then_some(ByteRate(bytes as f64))
    }

    /// Limits pre-copy and post-copy alike, in bytes per second.
    pub fn max_bandwidth(&mut self, known: &Settings, bytes_per_second: u64) {
        self.set(known, "max-bandwidth", bytes_per_second);
        self.set(known, "max-postcopy-bandwidth", bytes_per_second);
    }

    /// The limits of both as they were found.
    pub fn max_bandwidth_as_found(&mut self, found: &Settings) {
        for name in ["max-bandwidth", "max-postcopy-bandwidth"] {
            if let Some(value) = found.parameters.get(name) {
                self.parameters.insert(name.to_owned(), value.clone());
            }
        }
    }

    /// Sets the rate by which QEMU reckons the blackout; unknown before QEMU 8.2.
    pub fn switchover_bandwidth(&mut self, known: &Settings, bytes_per_second: u64) {
        self.set(known, "avail-switchover-bandwidth", bytes_per_second);
    }

    /// The parameters that may change while a migration runs, as they are.
    pub fn tunable(&self) -> Settings {
        let names = [
            "downtime-limit",
            "max-bandwidth",
            "max-postcopy-bandwidth",
            "avail-switchover-bandwidth",
        ];
        let there = |name: &str| Some((name.to_owned(), self.parameters.get(name)?.clone()));
        Settings {
            parameters: names.into_iter().filter_map(there).collect(),
            capabilities: Map::new(),
        }
    }

    /// Switches a capability where QEMU knows it.
    pub fn capability(&mut self, known: &Settings, name: &str, on: bool) {
        if known.capabilities.contains_key(name) {
            self.capabilities.insert(name.to_owned(), on.into());
        }
    }

    /// What puts these settings, and all that may change on the way, back to what `known` has.
    pub fn way_back(&self, known: &Settings) -> Settings {
        let pick = |ours: &Map<String, Value>, found: &Map<String, Value>| {
            let pairs = ours.keys().filter_map(|key| Some((key.clone(), found.get(key)?.clone())));
            pairs.collect()
        };
        let mut back = known.tunable();
        back.parameters.extend(pick(&self.parameters, &known.parameters));
        back.capabilities = pick(&self.capabilities, &known.capabilities);
        back
    }
}

impl Machine {
    /// Connects to a monitor.
    ///
    /// # Errors
    /// See [`Qmp::connect`].
    pub async fn connect(address: &Address) -> Result<(Machine, Events), QmpError> {
        let (qmp, events) = Qmp::connect(address).await?;
        Ok((Machine { qmp }, events))
    }

    /// Where its monitor is.
    pub fn address(&self) -> &Address {
        self.qmp.address()
    }

    /// The process that made its monitor's socket, where the kernel tells: QEMU, or who started it.
    pub fn peer(&self) -> Option<i32> {
        self.qmp.peer()
    }

    /// What the guest is doing.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`], as for every function here that asks QEMU.
    pub async fn run_state(&mut self) -> Result<RunState, QmpError> {
        let answer = self.qmp.execute("query-status", Value::Null).await?;
        let word = answer["status"].as_str().unwrap_or("unknown");
        Ok(match word {
            "running" => RunState::Running,
            "inmigrate" => RunState::AwaitsMigration,
            word => RunState::Stopped(word.to_owned()),
        })
    }

    /// What QEMU was told to call its guest (`-name`), if anything.
    pub async fn name(&mut self) -> Result<Option<String>, QmpError> {
        let answer = self.qmp.execute("query-name", Value::Null).await?;
        Ok(answer["name"].as_str().map(str::to_owned))
    }

    /// Whether the vCPUs are emulated, and not run by the hardware.
    pub async fn is_emulated(&mut self) -> Result<bool, QmpError> {
        let answer = self.qmp.execute("query-kvm", Value::Null).await?;
        Ok(answer["enabled"].as_bool() == Some(false))
    }

    /// The host's thread of each vCPU, in QEMU's order.
    pub async fn vcpu_threads(&mut self) -> Result<Vec<i32>, QmpError> {
        let command = "query-cpus-fast";
        let answer = self.qmp.execute(command, Value::Null).await?;
        let strange = |problem: &str| QmpError::Strange {
            command: command.to_owned(),
            problem: problem.to_owned(),
        };
        let cpus = answer.as_array().ok_or_else(|| strange("not a list"))?;
        let thread = |cpu: &Value| cpu["thread-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        let threads: Option<Vec<i32>> = cpus.iter().map(thread).collect();
        threads.filter(|t| !t.is_empty()).ok_or_else(|| strange("a vCPU without a thread-id"))
    }

    /// What `query-migrate` says.
    pub async fn migration(&mut self) -> Result<Migration, QmpError> {
        Ok(read_migration(&self.qmp.execute("query-migrate", Value::Null).await?))
    }

    /// Asks for the migration's counters without waiting; [`read_migration`] reads the answer.
    pub fn ask_migration(&mut self) -> Result<Pending, QmpError> {
        self.qmp.start("query-migrate", Value::Null)
    }

    /// What `query-migrate` says, and why this guest cannot be migrated, in QEMU's words; empty
    /// where it can.
    pub async fn migration_and_blockers(&mut self) -> Result<(Migration, Vec<String>), QmpError> {
        let answer = self.qmp.execute("query-migrate", Value::Null).await?;
        let reasons = answer["blocked-reasons"].as_array();
        let words = reasons.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok((read_migration(&answer), words.collect()))
    }

    /// The sizes of the guest's memory backends.
    pub async fn memory_backends(&mut self) -> Result<Vec<Bytes>, QmpError> {
        let answer = self.qmp.execute("query-memdev", Value::Null).await?;
        let size = |backend: &Value| backend["size"].as_u64().map(Bytes);
        Ok(answer.as_array().into_iter().flatten().filter_map(size).collect())
    }

    /// Asks QEMU to compare samples of the guest's memory with what they are `span` later, so many
    /// pages of each GiB. It answers at once; [`Machine::dirty_rate`] has the result in due time.
    pub async fn sample_dirty_rate(
        &mut self,
        span: Duration,
        grain: Grain,
        pages_per_gib: u64,
    ) -> Result<(), QmpError> {
        let mut arguments = json!({ "mode": "page-sampling", "sample-pages": pages_per_gib });
        match grain {
            Grain::Milliseconds => {
                arguments["calc-time"] = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).into();
                arguments["calc-time-unit"] = "millisecond".into();
            }
            Grain::Seconds => arguments["calc-time"] = span.as_secs().into(),
        }
        self.qmp.execute("calc-dirty-rate", arguments).await.map(drop)
    }

    /// What QEMU last measured, by whomever it was asked. [`Grain::Milliseconds`] is refused before
    /// QEMU 8.2.
    pub async fn dirty_rate(&mut self, grain: Grain) -> Result<DirtyRate, QmpError> {
        let arguments = match grain {
            Grain::Milliseconds => json!({ "calc-time-unit": "millisecond" }),
            Grain::Seconds => Value::Null,
        };
        Ok(read_dirty_rate(&self.qmp.execute("query-dirty-rate", arguments).await?, grain))
    }

    /// All parameters and capabilities of migration as they are.
    pub async fn settings(&mut self) -> Result<Settings, QmpError> {
        let parameters = self.qmp.execute("query-migrate-parameters", Value::Null).await?;
        let listed = self.qmp.execute("query-migrate-capabilities", Value::Null).await?;
        let pair = |entry: &Value| {
            Some((entry["capability"].as_str()?.to_owned(), entry["state"].clone()))
        };
        Ok(Settings {
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            capabilities: listed.as_array().into_iter().flatten().filter_map(pair).collect(),
        })
    }

    /// Changes settings; capabilities can only be changed while no migration is under way.
    pub async fn apply_settings(&mut self, settings: &Settings) -> Result<(), QmpError> {
        if !settings.capabilities.is_empty() {
            let entry = |(name, on): (&String, &Value)| json!({ "capability": name, "state": on });
            let list: Vec<Value> = settings.capabilities.iter().map(entry).collect();
            let arguments = json!({ "capabilities": list });
            self.qmp.execute("migrate-set-capabilities", arguments).await?;
        }
        if !settings.parameters.is_empty() {
            let arguments = Value::Object(settings.parameters.clone());
            self.qmp.execute("migrate-set-parameters", arguments).await?;
        }
        Ok(())
    }

    /// Starts a migration to `uri`.
    pub async fn begin(&mut self, uri: &str) -> Result<(), QmpError> {
        self.qmp.execute("migrate", json!({ "uri": uri })).await.map(drop)
    }

    /// Cancels the migration; it is cancelled a little later.
    pub async fn cancel(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("migrate_cancel", Value::Null).await.map(drop)
    }

    /// Breaks the migration's connection, even while QEMU's main loop is blocked in the final copy:
    /// the migration fails and the guest goes on at the source.
    pub async fn break_link(&mut self) -> Result<(), QmpError> {
        let arguments = json!({ "instances": [{ "type": "migration" }] });
        self.qmp.execute_out_of_band("yank", arguments).await.map(drop)
    }

    /// Changes over to post-copy.
    pub async fn start_postcopy(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("migrate-start-postcopy", Value::Null).await.map(drop)
    }

    /// Stops the guest.
    pub async fn stop(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("stop", Value::Null).await.map(drop)
    }

    /// Lets the guest go on.
    pub async fn go_on(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("cont", Value::Null).await.map(drop)
    }
}

/// The unit in which QEMU takes and tells the span of a measurement of the dirty rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Since QEMU 8.2.
    Milliseconds,
    /// All that older ones know.
    Seconds,
}

/// The answer to `query-dirty-rate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyRate {
    /// A measurement is going on.
    Measuring,
    /// The last one has ended.
    Measured {
        /// MiB per second, rounded down by QEMU; `None` where it had no memory to look at.
        mib_per_second: Option<u64>,
        /// How long it took, in whole milliseconds or seconds.
        span: Duration,
        /// Pages of each GiB that were looked at.
        pages_per_gib: u64,
    },
    /// There has been none, or not by sampling pages.
    None,
}

/// Reads the answer to `query-dirty-rate`.
pub fn read_dirty_rate(answer: &Value, grain: Grain) -> DirtyRate {
    let time = answer["calc-time"].as_u64().map(|time| match grain {
        Grain::Milliseconds => Duration::from_millis(time),
        Grain::Seconds => Duration::from_secs(time),
    });
    match (answer["status"].as_str(), answer["mode"].as_str(), time) {
        (Some("measuring"), _, _) => DirtyRate::Measuring,
        (Some("measured"), Some("page-sampling"), Some(span)) => DirtyRate::Measured {
            // -1 where no block was large enough.
            mib_per_second: answer["dirty-rate"].as_u64(),
            span,
            pages_per_gib: answer["sample-pages"].as_u64().unwrap_or_default(),
        },
        _ => DirtyRate::None,
    }
}

/// Reads the answer to `query-migrate`. What is not there is `None`.
pub fn read_migration(answer: &Value) -> Migration {
    let ms = |key: &str| answer[key].as_u64().map(Duration::from_millis);
    let throttle = answer["cpu-throttle-percentage"].as_f64();
    Migration {
        status: answer["status"].as_str().map_or(Status::None, read_status),
        ram: read_ram(&answer["ram"]),
        own_throttle: throttle.map(|percent| Share::clamped(percent / 100.0)),
        downtime: ms("downtime"),
        error: answer["error-desc"].as_str().map(str::to_owned),
    }
}

fn read_status(word: &str) -> Status {
    match word {
        "none" => Status::None,
        "setup" | "wait-unplug" => Status::Setup,
        "active" => Status::Active,
        "pre-switchover" | "device" => Status::SwitchOver,
        "postcopy-active" | "postcopy-device" => Status::PostCopy,
        "postcopy-paused" | "postcopy-recover" | "postcopy-recover-setup" => Status::PostCopyPaused,
        "cancelling" => Status::Cancelling,
        "cancelled" => Status::Cancelled,
        "failed" => Status::Failed,
        "completed" => Status::Completed,
        _ => Status::Unknown,
    }
}

fn read_ram(ram: &Value) -> Option<Ram> {
    let bytes = |key: &str| ram[key].as_u64().map(Bytes);
    let page = ram["page-size"].as_u64().unwrap_or(4096);
    Some(Ram {
        total: bytes("total")?,
        remaining: bytes("remaining")?,
        transferred: bytes("transferred")?,
        normal: bytes("normal-bytes")?,
        duplicate: Bytes(ram["duplicate"].as_u64()?.saturating_mul(page)),
        syncs: ram["dirty-sync-count"].as_u64()?,
    })
}

/// A migration URI whose transport a return path can be opened on.
pub fn is_socket(uri: &str) -> bool {
    ["tcp:", "unix:", "vsock:"].iter().any(|scheme| uri.starts_with(scheme))
}

/// Whether a text is a migration URI that leads to another QEMU.
///
/// # Errors
/// The text, and what to write.
pub fn check_uri(uri: &str) -> Result<(), String> {
    let known = ["tcp:", "unix:", "vsock:", "rdma:"];
    let rest = known.iter().find_map(|scheme| uri.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(()),
        _ => Err(format!(
            "{uri:?} is not the address of another QEMU; write tcp:host:port or unix:/path, as the \
             destination's QEMU has it after -incoming"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_of_a_running_migration_is_read_whole() {
        let answer = json!({
            "status": "active", "total-time": 1500, "expected-downtime": 300, "new-field": {},
            "cpu-throttle-percentage": 20,
            "ram": {
                "total": 268435456u64, "remaining": 4096, "transferred": 1000, "duplicate": 2,
                "normal": 3, "normal-bytes": 12288, "page-size": 4096, "dirty-sync-count": 2,
                "dirty-pages-rate": 10, "mbps": 1.5
            }
        });
        let migration = read_migration(&answer);
        assert_eq!(migration.status, Status::Active);
        assert_eq!(migration.own_throttle, Some(Share::clamped(0.2)));
        let ram = migration.ram.unwrap();
        assert_eq!((ram.duplicate, ram.sent()), (Bytes(8192), Bytes(20480)));
    }

    #[test]
    fn no_migration_at_all_is_an_empty_answer() {
        let migration = read_migration(&json!({}));
        assert_eq!((migration.status, migration.ram), (Status::None, None));
    }

    #[test]
    fn settings_are_put_back_as_found() {
        let mut known = Settings::default();
        known.parameters.insert("downtime-limit".into(), 300.into());
        known.parameters.insert("max-bandwidth".into(), 5.into());
        let mut ours = Settings::default();
        ours.downtime_limit(&known, Duration::from_millis(80));
        ours.max_bandwidth(&known, 100);
        let back = Value::Object(ours.way_back(&known).parameters);
        assert_eq!(back, json!({ "downtime-limit": 300, "max-bandwidth": 5 }));
        assert!(!ours.parameters.contains_key("max-postcopy-bandwidth"), "unknown to this QEMU");
    }

    #[test]
    fn migration_addresses_without_a_transport_are_refused() {
        assert!(check_uri("tcp:127.0.0.1:4444").is_ok());
        for uri in ["127.0.0.1:4444", "", "tcp:", "exec:cat", "qemu+ssh://host/system"] {
            assert!(check_uri(uri).unwrap_err().contains("-incoming"));
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in "[\\[\\]{}:,\"a-z0-9-]{0,60}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                read_migration(&value);
                read_dirty_rate(&value, Grain::Milliseconds);
            }
        }
    }
}

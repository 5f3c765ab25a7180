//! Whether the destination's QEMU can take this guest, by what both monitors say of themselves.
//!
//! Where the two differ in these, QEMU notices on the way: the migration fails after everything was sent, or
//! hangs, and the destination's QEMU ends. What one of them does not say (an older QEMU) is not compared.

use std::collections::BTreeMap;
use std::fmt;

use landfall_core::units::Bytes;
use serde_json::{Value, json};

use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::qmp::QmpError;

/// Something in which the two QEMUs differ, and must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndsDifference {
    what: String,
    source: String,
    destination: String,
    remedy: &'static str,
}

impl fmt::Display for EndsDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, source, destination, remedy } = self;
        write!(
            f,
            "{what} is {source} at the source and {destination} at the destination ({remedy})"
        )
    }
}

/// A destination that cannot take the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the destination's QEMU would fail to take this guest: {}",
    .0.iter().map(EndsDifference::to_string).collect::<Vec<_>>().join("; ")
)]
pub struct EndsDiffer(pub Vec<EndsDifference>);

/// What to do about the settings of a migration.
const SET_ALIKE: &str =
    "set it alike at both: QMP migrate-set-capabilities, migrate-set-parameters";
/// What to do about the machine.
const START_ALIKE: &str = "start the destination with the same machine, memory and vCPUs";

/// What a QEMU says of itself that must be the same at both ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QemuEnd {
    settings: MigrationParameters,
    machine: Option<String>,
    vcpus: Option<usize>,
    /// Without what is plugged in: the size of a virtio-mem device moves with the guest.
    base_memory: Option<Bytes>,
    /// The ids of the memory backends.
    backends: Vec<String>,
    /// The blocks of memory, by their names.
    blocks: BTreeMap<String, RamBlock>,
}

/// A block of the guest's memory or firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RamBlock {
    used: Bytes,
    /// What it can grow to; most cannot.
    largest: Bytes,
}

impl QemuEnd {
    /// Asks a QEMU.
    ///
    /// # Errors
    /// [`QmpError`], but not that the QEMU does not know a query.
    pub(super) async fn query(
        monitor: &mut QemuMonitor,
        settings: MigrationParameters,
    ) -> Result<QemuEnd, QmpError> {
        let machine = json!({ "path": "/machine", "property": "type" });
        let machine = monitor.query_if_accepted("qom-get", machine).await?;
        let mut ask = async |query: &str| -> Result<Value, QmpError> {
            Ok(monitor.query_if_accepted(query, Value::Null).await?.unwrap_or_default())
        };
        let vcpus = ask("query-cpus-fast").await?;
        let memory = ask("query-memory-size-summary").await?;
        let backends = ask("query-memdev").await?;
        let blocks = ask("x-query-ramblock").await?;
        let backends = backends.as_array().into_iter().flatten();
        let backend = |backend: &Value| backend["id"].as_str().map(str::to_owned);
        Ok(QemuEnd {
            settings,
            machine: machine.as_ref().and_then(Value::as_str).map(str::to_owned),
            vcpus: vcpus.as_array().map(Vec::len),
            base_memory: memory["base-memory"].as_u64().map(Bytes),
            backends: backends.filter_map(backend).collect(),
            blocks: parse_ram_blocks(blocks["human-readable-text"].as_str().unwrap_or_default()),
        })
    }

    /// Compares the source with the destination.
    ///
    /// # Errors
    /// [`EndsDiffer`] with all in which they must not differ.
    pub(super) fn compare(&self, destination: &QemuEnd, post_copy: bool) -> Result<(), EndsDiffer> {
        let mut differences = self.compare_settings(&destination.settings, post_copy);
        let mut must_be_same = |what: &str, here: Option<String>, there: Option<String>| {
            if let (Some(source), Some(destination)) = (here, there)
                && source != destination
            {
                let what = what.to_owned();
                differences.push(EndsDifference { what, source, destination, remedy: START_ALIKE });
            }
        };
        must_be_same("the machine type", self.machine.clone(), destination.machine.clone());
        let count = |vcpus: &Option<usize>| vcpus.map(|vcpus| vcpus.to_string());
        must_be_same("the number of vCPUs", count(&self.vcpus), count(&destination.vcpus));
        let size = |end: &QemuEnd| end.base_memory.map(size_text);
        must_be_same("the memory's size", size(self), size(destination));
        if differences.iter().all(|difference| difference.remedy != START_ALIKE) {
            differences.extend(self.compare_blocks(destination));
        }
        if differences.is_empty() { Ok(()) } else { Err(EndsDiffer(differences)) }
    }

    fn compare_settings(
        &self,
        destination: &MigrationParameters,
        post_copy: bool,
    ) -> Vec<EndsDifference> {
        let source = &self.settings;
        let mut differences = Vec::new();
        let on = |ends: &MigrationParameters, name: &str| ends.has_capability(name);
        let word = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut capability = |name: &str, fits: fn(bool, bool) -> bool| {
            let (here, there) = (on(source, name), on(destination, name));
            if !fits(here, there) {
                differences.push(EndsDifference {
                    what: format!("the capability {name}"),
                    source: word(here),
                    destination: word(there),
                    remedy: SET_ALIKE,
                });
            }
        };
        // Each changes the form of the stream, or how many connections it has.
        for name in ["multifd", "mapped-ram", "x-ignore-shared", "compress"] {
            capability(name, |here, there| here == there);
        }
        // The source waits for something that only such a destination sends or takes.
        for name in ["switchover-ack", "dirty-bitmaps"] {
            capability(name, |here, there| there || !here);
        }
        if post_copy {
            capability("postcopy-preempt", |here, there| here == there);
        }
        let mut parameter = |name: &str, fits: fn(&Value, &Value) -> bool| {
            let values = (source.parameters.get(name), destination.parameters.get(name));
            if let (Some(here), Some(there)) = values
                && !fits(here, there)
            {
                let text = |value: &Value| match value.as_str() {
                    Some("") => "unset".to_owned(),
                    Some(text) => text.to_owned(),
                    None => value.to_string(),
                };
                differences.push(EndsDifference {
                    what: format!("the parameter {name}"),
                    source: text(here),
                    destination: text(there),
                    remedy: SET_ALIKE,
                });
            }
        };
        if on(source, "multifd") && on(destination, "multifd") {
            for name in ["multifd-channels", "multifd-compression"] {
                parameter(name, |here, there| here == there);
            }
        }
        // Each end has credentials of its own.
        parameter("tls-creds", |here, there| (here == "") == (there == ""));
        differences
    }

    /// The guest's memory must be there by its name, and every block that both have must fit.
    fn compare_blocks(&self, destination: &QemuEnd) -> Vec<EndsDifference> {
        let mut differences = Vec::new();
        if self.blocks.is_empty() || destination.blocks.is_empty() {
            return differences;
        }
        for (name, here) in &self.blocks {
            let there = destination.blocks.get(name);
            let fits = match there {
                // Blocks that are not memory backends may be ones that do not move.
                None => !self.backends.iter().any(|id| name.rsplit('/').next() == Some(id)),
                Some(there) => here.fits(*there),
            };
            if !fits {
                differences.push(EndsDifference {
                    what: format!("the memory block {name}"),
                    source: size_text(here.used),
                    destination: there.map_or("missing".to_owned(), |there| size_text(there.used)),
                    remedy: START_ALIKE,
                });
            }
        }
        differences
    }
}

impl RamBlock {
    /// Returns whether QEMU can load this block into that one, which it resizes where it can.
    fn fits(self, destination: RamBlock) -> bool {
        let is_fixed = |block: RamBlock| block.used == block.largest;
        let same = self.used == destination.used;
        same || (self.used.0 <= destination.largest.0 && !(is_fixed(self) && is_fixed(destination)))
    }
}

/// Says a size exactly, as QEMU's options take it.
fn size_text(size: Bytes) -> String {
    match size.0 % (1 << 20) {
        0 => format!("{} MiB", size.0 >> 20),
        _ => format!("{} bytes", size.0),
    }
}

/// Reads the table of `x-query-ramblock`: `Block Name, PSize, Offset, Used, Total` and, since QEMU 8.0, more.
/// A row that does not look like one is left out.
fn parse_ram_blocks(table: &str) -> BTreeMap<String, RamBlock> {
    let hexadecimal = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let read_row = |row: &str| {
        let (name, rest) = row.split_once(" 0x")?;
        // The page's size, such as "4 KiB", is before the first number.
        let mut words: Vec<&str> = name.split_whitespace().collect();
        words.truncate(words.len().checked_sub(2)?);
        let mut numbers = rest.split_whitespace().skip(1);
        let used = Bytes(hexadecimal(numbers.next()?)?);
        let largest = Bytes(hexadecimal(numbers.next()?)?);
        (!words.is_empty()).then(|| (words.join(" "), RamBlock { used, largest }))
    };
    table.lines().filter_map(read_row).collect()
}

/// Why the two ends could not be compared, or do not fit.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndsError {
    #[error(transparent)]
    Differ(#[from] EndsDiffer),
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// Compares the source, whose settings were read already, with the destination.
///
/// # Errors
/// [`EndsError`].
pub(super) async fn check_ends(
    source: &mut QemuMonitor,
    found: &MigrationParameters,
    destination: &mut QemuMonitor,
    post_copy: bool,
) -> Result<(), EndsError> {
    let settings = destination.query_migration_parameters().await?;
    let there = QemuEnd::query(destination, settings).await?;
    let here = QemuEnd::query(source, found.clone()).await?;
    Ok(here.compare(&there, post_copy)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What QEMU 10.0.8 and 7.2 answer.
    const TABLES: [&str; 2] = [
        "              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007fd48fe00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000008080000 0x0000000000020000 0x0000000000200000 0x00007fd4e5800000  ro\n",
        "              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000
    /rom@etc/acpi/tables    4 KiB  0x0000000008080000 0x0000000000020000 0x0000000000200000\n",
    ];

    fn end(capabilities: &[&str], parameters: Value) -> QemuEnd {
        let settings = MigrationParameters {
            parameters: parameters.as_object().unwrap().clone(),
            capabilities: capabilities
                .iter()
                .map(|name| ((*name).to_owned(), true.into()))
                .collect(),
        };
        QemuEnd {
            settings,
            machine: Some("pc-q35-10.0-machine".to_owned()),
            vcpus: Some(2),
            base_memory: Some(Bytes::mib(128)),
            backends: vec!["pc.ram".to_owned()],
            blocks: parse_ram_blocks(TABLES[0]),
        }
    }

    #[track_caller]
    fn differ(source: &QemuEnd, destination: &QemuEnd, says: &str) {
        let error = source.compare(destination, false).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn the_table_of_ram_blocks_is_read_from_both_qemus() {
        for table in TABLES {
            let blocks = parse_ram_blocks(table);
            assert_eq!(blocks.len(), 2, "{blocks:?}");
            let fixed = RamBlock { used: Bytes::mib(128), largest: Bytes::mib(128) };
            assert_eq!(blocks["pc.ram"], fixed);
            assert_eq!(blocks["/rom@etc/acpi/tables"].largest, Bytes::mib(2));
        }
    }

    #[test]
    fn settings_that_change_the_stream_must_be_the_same() {
        let plain = end(&[], json!({ "multifd-channels": 2, "tls-creds": "" }));
        assert_eq!(plain.compare(&plain, true), Ok(()));
        let multifd = end(&["multifd"], json!({ "multifd-channels": 2, "tls-creds": "client" }));
        differ(&multifd, &plain, "the capability multifd is on at the source and off at the");
        differ(&plain, &multifd, "the capability multifd is off");
        differ(&multifd, &plain, "the parameter tls-creds is client at the source and unset");
        let more = end(&["multifd"], json!({ "multifd-channels": 8, "tls-creds": "server" }));
        differ(&multifd, &more, "multifd-channels is 2 at the source and 8");
        // What only one end must have.
        let acked = end(&["switchover-ack"], json!({}));
        differ(&acked, &plain, "switchover-ack");
        assert_eq!(plain.compare(&acked, false), Ok(()));
        let preempt = end(&["postcopy-preempt", "auto-converge", "postcopy-ram"], json!({}));
        assert_eq!(plain.compare(&preempt, false), Ok(()));
        assert!(plain.compare(&preempt, true).is_err());
    }

    #[test]
    fn the_machine_must_be_the_same() {
        let one = end(&[], json!({}));
        let other = QemuEnd { machine: Some("pc-i440fx-10.0-machine".to_owned()), ..one.clone() };
        differ(&one, &other, "the machine type is pc-q35-10.0-machine at the source and pc-i440fx");
        differ(&one, &QemuEnd { vcpus: Some(3), ..one.clone() }, "vCPUs is 2 at the source and 3");
        let smaller = QemuEnd { base_memory: Some(Bytes::mib(96)), ..one.clone() };
        differ(&one, &smaller, "the memory's size");
        // What one does not say is not compared.
        let silent = QemuEnd { settings: one.settings.clone(), ..QemuEnd::default() };
        assert_eq!(one.compare(&silent, false), Ok(()));
        assert_eq!(silent.compare(&one, false), Ok(()));
    }

    #[test]
    fn blocks_of_memory_must_fit() {
        let one = end(&[], json!({}));
        let with = |name: &str, used: u64, largest: u64| {
            let mut other = one.clone();
            other.blocks.remove(name);
            let block = RamBlock { used: Bytes(used), largest: Bytes(largest) };
            other.blocks.insert(name.to_owned(), block);
            other
        };
        differ(&one, &with("pc.ram", 1 << 20, 1 << 20), "the memory block pc.ram");
        let tables = "/rom@etc/acpi/tables";
        assert_eq!(one.compare(&with(tables, 0x40000, 0x20_0000), false), Ok(()));
        differ(&one, &with(tables, 0x10000, 0x10000), tables);
        let mut renamed = one.clone();
        renamed.blocks.remove("pc.ram");
        differ(&one, &renamed, "missing");
        let mut without_table = one.clone();
        without_table.blocks.remove(tables);
        assert_eq!(one.compare(&without_table, false), Ok(()));
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(table in "[ 0-9a-fx\n/.A-Z]{0,200}") {
            parse_ram_blocks(&table);
        }
    }
}

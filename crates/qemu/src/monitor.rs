//! A QEMU at either end of a migration, through its monitor: its state, its counters, its migration
//! parameters and the commands that landfall gives it. Names are those of the QMP commands.

use std::fmt;
use std::time::Duration;

use landfall_core::ending::GuestState;
use landfall_core::telemetry::sample::{Migration, Ram, Status};
use landfall_core::units::{ByteRate, Bytes, Share};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::procfs::sockets::LocalSocket;
use crate::qmp::{PendingResponse, QmpAddress, QmpClient, QmpError, QmpEvents};
use crate::ram_blocks::{RamBlock, ram_blocks};

/// A connection to the monitor of a QEMU, at either end of a migration.
#[derive(Debug)]
pub struct QemuMonitor {
    qmp: QmpClient,
}

/// What a guest does, from QEMU's `query-status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// The guest runs.
    Running,
    /// QEMU waits for an incoming migration (`inmigrate`).
    InMigrate,
    /// The guest is stopped. The text is QEMU's word: `paused`, `postmigrate`, `io-error`, ...
    Stopped(String),
}

impl RunState {
    /// Returns what it means for the end of a migration. A guest that sleeps (`suspended`, S3) is alive: QEMU
    /// migrates it as one that runs, and `cont` does nothing to it.
    pub fn guest_state(&self) -> GuestState {
        match self {
            RunState::Running => GuestState::Running,
            RunState::InMigrate => GuestState::Incoming,
            RunState::Stopped(word) => match word.as_str() {
                "suspended" => GuestState::Running,
                "paused" | "prelaunch" => GuestState::Paused,
                "finish-migrate" => GuestState::FinalCopy,
                "postmigrate" => GuestState::Sent,
                _ => GuestState::Halted,
            },
        }
    }
}

/// Reads the response to `query-status`.
pub fn parse_query_status(answer: &Value) -> RunState {
    match answer["status"].as_str().unwrap_or("unknown") {
        "running" => RunState::Running,
        "inmigrate" => RunState::InMigrate,
        word => RunState::Stopped(word.to_owned()),
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunState::Running => f.pad("running"),
            RunState::InMigrate => f.pad("inmigrate"),
            RunState::Stopped(word) => f.pad(word),
        }
    }
}

/// Migration parameters and capabilities of a QEMU, by QEMU's names: all of them as they were read, or
/// those that are to be set. A name that a QEMU does not know is never sent to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationParameters {
    /// Parameters (`migrate-set-parameters`).
    pub parameters: Map<String, Value>,
    /// Capabilities (`migrate-set-capabilities`), each `true` or `false`.
    pub capabilities: Map<String, Value>,
}

impl MigrationParameters {
    /// Sets a parameter, if QEMU knows it.
    fn set_parameter(&mut self, known: &Self, name: &str, value: impl Into<Value>) {
        if known.parameters.contains_key(name) {
            self.parameters.insert(name.to_owned(), value.into());
        }
    }

    /// Sets the longest downtime for which QEMU switches over, in whole milliseconds of at least 1.
    pub fn set_downtime_limit(&mut self, known: &Self, limit: Duration) {
        // QEMU takes at most 2,000,000 ms.
        let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).clamp(1, 2_000_000);
        self.set_parameter(known, "downtime-limit", ms);
    }

    /// Returns whether a downtime limit is among these parameters.
    pub fn has_downtime_limit(&self) -> bool {
        self.parameters.contains_key("downtime-limit")
    }

    /// Returns the bandwidth limit of pre-copy in parameters that were read; `None` if QEMU has none.
    pub fn max_bandwidth(&self) -> Option<ByteRate> {
        let bytes = self.parameters.get("max-bandwidth")?.as_u64()?;
        (bytes > 0).then_some(ByteRate(bytes as f64))
    }

    /// Sets the bandwidth limits of pre-copy and of post-copy, in bytes per second.
    pub fn set_max_bandwidth(&mut self, known: &Self, bytes_per_second: u64) {
        self.set_parameter(known, "max-bandwidth", bytes_per_second);
        self.set_parameter(known, "max-postcopy-bandwidth", bytes_per_second);
    }

    /// Sets the bandwidth limits of pre-copy and of post-copy to what they were found at.
    pub fn restore_max_bandwidth(&mut self, found: &Self) {
        for name in ["max-bandwidth", "max-postcopy-bandwidth"] {
            if let Some(value) = found.parameters.get(name) {
                self.parameters.insert(name.to_owned(), value.clone());
            }
        }
    }

    /// Sets the bandwidth from which QEMU estimates the downtime, in bytes per second. QEMU knows this
    /// parameter since 8.2.
    pub fn set_switchover_bandwidth(&mut self, known: &Self, bytes_per_second: u64) {
        self.set_parameter(known, "avail-switchover-bandwidth", bytes_per_second);
    }

    /// Returns whether a capability is known and on.
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.get(name) == Some(&Value::Bool(true))
    }

    /// Sets a capability, if QEMU knows it.
    pub fn set_capability(&mut self, known: &Self, name: &str, on: bool) {
        if known.capabilities.contains_key(name) {
            self.capabilities.insert(name.to_owned(), on.into());
        }
    }

    /// Returns the parameters that landfall may change while a migration runs, with their values here.
    pub fn changeable_while_running(&self) -> Self {
        let names = [
            "downtime-limit",
            "max-bandwidth",
            "max-postcopy-bandwidth",
            "avail-switchover-bandwidth",
        ];
        let there = |name: &str| Some((name.to_owned(), self.parameters.get(name)?.clone()));
        Self { parameters: names.into_iter().filter_map(there).collect(), capabilities: Map::new() }
    }

    /// Returns those of these original values that have to be set so that nothing of landfall's is left: where
    /// the value now is one that landfall set. A value that another program has set since then stays.
    pub fn still_to_restore(&self, now: &Self, set_by_landfall: &[Self]) -> Self {
        fn pick(
            found: &Map<String, Value>,
            now: &Map<String, Value>,
            ours: &[&Map<String, Value>],
        ) -> Map<String, Value> {
            let is_ours = |name: &String, value: &Value| {
                ours.iter().any(|ours| ours.get(name).is_some_and(|set| set == value))
            };
            let differs = |(name, value): &(&String, &Value)| {
                now.get(*name).is_some_and(|now| now != *value && is_ours(name, now))
            };
            found
                .iter()
                .filter(differs)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        }
        let parameters: Vec<_> = set_by_landfall.iter().map(|set| &set.parameters).collect();
        let capabilities: Vec<_> = set_by_landfall.iter().map(|set| &set.capabilities).collect();
        Self {
            parameters: pick(&self.parameters, &now.parameters, &parameters),
            capabilities: pick(&self.capabilities, &now.capabilities, &capabilities),
        }
    }

    /// Returns these settings with others on top.
    pub fn with(&self, others: &Self) -> Self {
        let mut all = self.clone();
        all.parameters.extend(others.parameters.clone());
        all.capabilities.extend(others.capabilities.clone());
        all
    }

    /// Returns what undoes these settings, and all later changes while the migration runs: the values
    /// in `found`.
    pub fn original_values(&self, found: &Self) -> Self {
        let pick = |ours: &Map<String, Value>, found: &Map<String, Value>| {
            let pairs = ours.keys().filter_map(|key| Some((key.clone(), found.get(key)?.clone())));
            pairs.collect()
        };
        let mut original = found.changeable_while_running();
        original.parameters.extend(pick(&self.parameters, &found.parameters));
        original.capabilities = pick(&self.capabilities, &found.capabilities);
        original
    }
}

impl QemuMonitor {
    /// Connects to a monitor. Also returns the events that QEMU sends from now on.
    ///
    /// # Errors
    /// Those of [`QmpClient::connect`].
    pub async fn connect(address: &QmpAddress) -> Result<(QemuMonitor, QmpEvents), QmpError> {
        let (qmp, events) = QmpClient::connect(address).await?;
        Ok((QemuMonitor { qmp }, events))
    }

    /// Returns the address of the monitor.
    pub fn address(&self) -> &QmpAddress {
        self.qmp.address()
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.qmp.is_closed()
    }

    /// Returns the id of the process that made the monitor's socket: QEMU, or the process that started
    /// it. `None` for a TCP connection.
    pub fn peer_pid(&self) -> Option<i32> {
        self.qmp.peer_pid()
    }

    /// Returns landfall's end of the connection; `None` where the kernel did not say what it is.
    pub fn local_socket(&self) -> Option<LocalSocket> {
        self.qmp.local_socket()
    }

    /// Returns what the guest does (`query-status`).
    ///
    /// # Errors
    /// Those of [`QmpClient::execute`], as for every function here that sends a command.
    pub async fn query_run_state(&mut self) -> Result<RunState, QmpError> {
        Ok(parse_query_status(&self.qmp.execute("query-status", Value::Null).await?))
    }

    /// Sends a command without arguments and does not wait for the answer.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub fn start_command(&mut self, command: &str) -> Result<PendingResponse, QmpError> {
        self.qmp.send_command(command, Value::Null)
    }

    /// Returns the guest's name (QEMU's option `-name`), if it has one.
    pub async fn query_guest_name(&mut self) -> Result<Option<String>, QmpError> {
        let answer = self.qmp.execute("query-name", Value::Null).await?;
        Ok(answer["name"].as_str().map(str::to_owned))
    }

    /// Returns whether the vCPUs are emulated (TCG) and not run by KVM.
    pub async fn query_is_emulated(&mut self) -> Result<bool, QmpError> {
        let answer = self.qmp.execute("query-kvm", Value::Null).await?;
        Ok(answer["enabled"].as_bool() == Some(false))
    }

    /// Returns the host's thread id of each vCPU, in QEMU's order (`query-cpus-fast`).
    ///
    /// # Errors
    /// [`QmpError::UnexpectedResponse`] if there is no vCPU, or one without a thread.
    pub async fn query_vcpu_threads(&mut self) -> Result<Vec<i32>, QmpError> {
        let command = "query-cpus-fast";
        let answer = self.qmp.execute(command, Value::Null).await?;
        let unexpected =
            |problem| QmpError::UnexpectedResponse { command: command.to_owned(), problem };
        let cpus = answer.as_array().ok_or_else(|| unexpected("not a list"))?;
        let thread = |cpu: &Value| cpu["thread-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        let threads: Option<Vec<i32>> = cpus.iter().map(thread).collect();
        threads.filter(|t| !t.is_empty()).ok_or_else(|| unexpected("a vCPU without a thread-id"))
    }

    /// Runs a query without arguments; `None` if this QEMU does not know it.
    pub async fn query_if_known(&mut self, query: &str) -> Result<Option<Value>, QmpError> {
        match self.qmp.execute(query, Value::Null).await {
            Err(QmpError::Rejected { class, .. }) if class == "CommandNotFound" => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Runs a query; `None` if this QEMU rejects it for whatever reason.
    pub async fn query_if_accepted(
        &mut self,
        query: &str,
        arguments: Value,
    ) -> Result<Option<Value>, QmpError> {
        match self.qmp.execute(query, arguments).await {
            Err(QmpError::Rejected { .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Returns the ids of the block jobs that exist (`query-block-jobs`).
    pub async fn query_block_jobs(&mut self) -> Result<Vec<String>, QmpError> {
        let answer = self.query_if_known("query-block-jobs").await?.unwrap_or_default();
        let id = |job: &Value| job["device"].as_str().map(str::to_owned);
        Ok(answer.as_array().into_iter().flatten().filter_map(id).collect())
    }

    /// Tells QEMU to go on from `pre-switchover` (`migrate-continue`), and does not wait for the answer.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub fn start_migrate_continue(&mut self) -> Result<PendingResponse, QmpError> {
        self.qmp.send_command("migrate-continue", json!({ "state": "pre-switchover" }))
    }

    /// Returns the migration's state and counters (`query-migrate`).
    pub async fn query_migrate(&mut self) -> Result<Migration, QmpError> {
        Ok(parse_query_migrate(&self.qmp.execute("query-migrate", Value::Null).await?))
    }

    /// Sends `query-migrate` and does not wait; [`parse_query_migrate`] reads the response.
    pub fn start_query_migrate(&mut self) -> Result<PendingResponse, QmpError> {
        self.qmp.send_command("query-migrate", Value::Null)
    }

    /// Returns what [`QemuMonitor::query_migrate`] does, and why this guest cannot be migrated, in QEMU's
    /// words: empty if it can.
    pub async fn query_migrate_and_blockers(
        &mut self,
    ) -> Result<(Migration, Vec<String>), QmpError> {
        let answer = self.qmp.execute("query-migrate", Value::Null).await?;
        let reasons = answer["blocked-reasons"].as_array();
        let words = reasons.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok((parse_query_migrate(&answer), words.collect()))
    }

    /// Returns the sizes of the guest's memory backends (`query-memdev`).
    pub async fn query_memory_backends(&mut self) -> Result<Vec<Bytes>, QmpError> {
        let answer = self.qmp.execute("query-memdev", Value::Null).await?;
        let size = |backend: &Value| backend["size"].as_u64().map(Bytes);
        Ok(answer.as_array().into_iter().flatten().filter_map(size).collect())
    }

    /// Returns the blocks of memory that QEMU migrates (`x-query-ramblock`), the guest's among them; `None`
    /// from a QEMU that does not offer the command.
    pub async fn query_ram_blocks(&mut self) -> Result<Option<Vec<RamBlock>>, QmpError> {
        match self.qmp.execute("x-query-ramblock", Value::Null).await {
            Ok(answer) => Ok(answer["human-readable-text"].as_str().map(ram_blocks)),
            Err(QmpError::Rejected { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns all migration parameters and capabilities as they are.
    pub async fn query_migration_parameters(&mut self) -> Result<MigrationParameters, QmpError> {
        let parameters = self.qmp.execute("query-migrate-parameters", Value::Null).await?;
        let listed = self.qmp.execute("query-migrate-capabilities", Value::Null).await?;
        let pair = |entry: &Value| {
            Some((entry["capability"].as_str()?.to_owned(), entry["state"].clone()))
        };
        Ok(MigrationParameters {
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            capabilities: listed.as_array().into_iter().flatten().filter_map(pair).collect(),
        })
    }

    /// Sets migration parameters and capabilities, each also where QEMU refuses the other: it rejects
    /// capabilities while a migration runs.
    ///
    /// # Errors
    /// The first error.
    pub async fn set_migration_parameters(
        &mut self,
        settings: &MigrationParameters,
    ) -> Result<(), QmpError> {
        let mut capabilities_set = Ok(());
        if !settings.capabilities.is_empty() {
            let entry = |(name, on): (&String, &Value)| json!({ "capability": name, "state": on });
            let list: Vec<Value> = settings.capabilities.iter().map(entry).collect();
            let arguments = json!({ "capabilities": list });
            capabilities_set = match self.qmp.execute("migrate-set-capabilities", arguments).await {
                Err(refused @ QmpError::Rejected { .. }) => Err(refused),
                // A monitor that is silent is not waited for twice.
                set => set.map(|_| Ok(()))?,
            };
        }
        if !settings.parameters.is_empty() {
            let arguments = Value::Object(settings.parameters.clone());
            let set = self.qmp.execute("migrate-set-parameters", arguments).await;
            return capabilities_set.and(set.map(drop));
        }
        capabilities_set
    }

    /// Starts a migration to a URI (`migrate`).
    pub async fn migrate(&mut self, uri: &str) -> Result<(), QmpError> {
        self.qmp.execute("migrate", json!({ "uri": uri })).await.map(drop)
    }

    /// Breaks the migration's connection (`yank`), even while QEMU's main loop is blocked in the final
    /// copy, and does not wait for the answer. The migration fails and the guest continues at the source.
    ///
    /// # Errors
    /// [`QmpError::Closed`], [`QmpError::NoOutOfBand`].
    pub fn start_yank_migration(&mut self) -> Result<PendingResponse, QmpError> {
        let arguments = json!({ "instances": [{ "type": "migration" }] });
        self.qmp.send_out_of_band("yank", arguments)
    }

    /// Switches the migration to post-copy (`migrate-start-postcopy`).
    pub async fn migrate_start_postcopy(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("migrate-start-postcopy", Value::Null).await.map(drop)
    }

    /// Interrupts the guest (`stop`).
    pub async fn stop(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("stop", Value::Null).await.map(drop)
    }

    /// Continues the guest after a stop (`cont`).
    pub async fn cont(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("cont", Value::Null).await.map(drop)
    }
}

/// Reads the response to `query-migrate`. A field that is missing is `None`.
pub fn parse_query_migrate(answer: &Value) -> Migration {
    let ms = |key: &str| answer[key].as_u64().map(Duration::from_millis);
    let throttle = answer["cpu-throttle-percentage"].as_f64();
    Migration {
        status: answer["status"].as_str().map_or(Status::None, parse_status),
        ram: parse_ram(&answer["ram"]),
        own_throttle: throttle.map(|percent| Share::clamped(percent / 100.0)),
        downtime: ms("downtime"),
        error: answer["error-desc"].as_str().map(str::to_owned),
    }
}

fn parse_status(word: &str) -> Status {
    match word {
        "none" => Status::None,
        "setup" | "wait-unplug" => Status::Setup,
        "active" => Status::Active,
        "pre-switchover" => Status::PreSwitchOver,
        "device" => Status::SwitchOver,
        "postcopy-active" | "postcopy-device" => Status::PostCopy,
        "postcopy-paused" | "postcopy-recover" | "postcopy-recover-setup" => Status::PostCopyPaused,
        "cancelling" => Status::Cancelling,
        "cancelled" => Status::Cancelled,
        "failed" => Status::Failed,
        "completed" => Status::Completed,
        _ => Status::Unknown,
    }
}

fn parse_ram(ram: &Value) -> Option<Ram> {
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

/// Returns whether a return path can be opened on the transport of a migration URI.
pub fn supports_return_path(uri: &str) -> bool {
    ["tcp:", "unix:", "vsock:"].iter().any(|scheme| uri.starts_with(scheme))
}

/// A text that is not a migration URI of another QEMU: it has an unknown transport, or nothing after
/// the transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{uri:?} is not the address of another QEMU; write tcp:host:port or unix:/path, as the \
     destination's QEMU has it after -incoming"
)]
pub struct MigrationUriError {
    /// The text.
    pub uri: String,
}

/// Checks that a text is a migration URI that leads to another QEMU.
///
/// # Errors
/// [`MigrationUriError`].
pub fn check_migration_uri(uri: &str) -> Result<(), MigrationUriError> {
    let known = ["tcp:", "unix:", "vsock:", "rdma:"];
    let rest = known.iter().find_map(|scheme| uri.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(()),
        _ => Err(MigrationUriError { uri: uri.to_owned() }),
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
        let migration = parse_query_migrate(&answer);
        assert_eq!(migration.status, Status::Active);
        assert_eq!(migration.own_throttle, Some(Share::clamped(0.2)));
        let ram = migration.ram.unwrap();
        assert_eq!((ram.duplicate, ram.sent()), (Bytes(8192), Bytes(20480)));
    }

    #[test]
    fn no_migration_at_all_is_an_empty_answer() {
        let migration = parse_query_migrate(&json!({}));
        assert_eq!((migration.status, migration.ram), (Status::None, None));
    }

    #[test]
    fn settings_are_put_back_as_found() {
        let mut known = MigrationParameters::default();
        known.parameters.insert("downtime-limit".into(), 300.into());
        known.parameters.insert("max-bandwidth".into(), 5.into());
        let mut ours = MigrationParameters::default();
        ours.set_downtime_limit(&known, Duration::from_millis(80));
        ours.set_max_bandwidth(&known, 100);
        let back = Value::Object(ours.original_values(&known).parameters);
        assert_eq!(back, json!({ "downtime-limit": 300, "max-bandwidth": 5 }));
        assert!(!ours.parameters.contains_key("max-postcopy-bandwidth"), "unknown to this QEMU");
    }

    #[test]
    fn migration_addresses_without_a_transport_are_refused() {
        assert!(check_migration_uri("tcp:127.0.0.1:4444").is_ok());
        for uri in ["127.0.0.1:4444", "", "tcp:", "exec:cat", "qemu+ssh://host/system"] {
            assert!(check_migration_uri(uri).unwrap_err().to_string().contains("-incoming"));
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in "[\\[\\]{}:,\"a-z0-9-]{0,60}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                parse_query_migrate(&value);
            }
        }
    }
}

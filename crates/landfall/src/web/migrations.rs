//! The migrations in the folder of recordings, and the start of a new one.
//!
//! Each migration that the page starts is a `landfall migrate` process in a session of its own, so neither
//! the end of the page nor a fault in it touches a migration. Its files in the folder share a name:
//!
//! | File | Contents |
//! |---|---|
//! | `NAME.jsonl` | the recording |
//! | `NAME.started.json` | a [`StartNote`], by which another `landfall serve` finds the process again |
//! | `NAME.report.json` | the report |
//! | `NAME.log` | standard error |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfall_core::report::Report;
use landfall_core::requirements::Settings;
use landfall_qemu::monitor::{self, MigrationUriError};
use landfall_qemu::procfs::Process;
use landfall_qemu::qmp::{QmpAddress, QmpAddressError};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::calendar::UtcTime;
use super::settings_form::SettingsForm;
use super::steering::SteeringError;

/// How much of a log's end is shown.
const MAX_SHOWN_LOG_BYTES: usize = 4000;

/// The longest name of a migration.
const MAX_NAME_LENGTH: usize = 120;

/// How much of a guest's name a migration's name repeats.
const MAX_GUEST_IN_NAME: usize = 40;

/// How many migrations of one guest may start in the same second.
const MAX_SAME_NAMES: usize = 1000;

/// What was started, kept beside the recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartNote {
    /// The name that people read for the guest.
    pub guest: String,
    /// The source's monitor.
    pub source: String,
    /// The migration URI.
    pub destination: String,
    /// The destination's monitor, if it was given.
    pub destination_qmp: Option<String>,
    /// The options, as on the command line.
    pub options: Vec<String>,
    /// The settings at the start.
    #[serde(rename = "demands")]
    pub settings: Settings,
    /// Seconds since 1970.
    #[serde(rename = "at")]
    pub started_at: u64,
    /// The landfall that steers it.
    pub process: Option<Process>,
}

/// A migration in the folder.
#[derive(Debug, Clone)]
pub struct RecordedMigration {
    /// The recording's name without its ending; the page's address has it.
    pub name: String,
    /// The recording.
    pub file: PathBuf,
    /// What was started; `None` for a recording that the page did not make.
    pub start_note: Option<StartNote>,
}

/// The folder of recordings.
#[derive(Debug, Clone)]
pub struct MigrationFolder {
    folder: PathBuf,
    /// landfall's own program.
    program: PathBuf,
}

/// Why a folder of recordings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenFolderError {
    /// It cannot be created or looked at.
    #[error(
        "--recordings {}: cannot create the folder: {source}; name a folder that exists or can be created",
        folder.display()
    )]
    Create {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Other users can put files in it, which operators would take for the page's own.
    #[error(
        "--recordings {}: the folder belongs to user {owner_uid} and has mode {mode:03o}, so that other users \
         may write in it; make it your own and chmod go-w it, or name another folder",
        folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The user it belongs to.
        owner_uid: u32,
        /// Its permissions.
        mode: u32,
    },
}

/// Where a migration goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationDestination {
    /// The migration URI.
    pub uri: String,
    /// The destination's monitor.
    pub monitor: Option<String>,
}

/// Why a destination that was typed is not valid.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The migration URI.
    #[error(transparent)]
    Uri(#[from] MigrationUriError),
    /// The destination's monitor.
    #[error("the destination's monitor: {0}")]
    Monitor(#[from] QmpAddressError),
}

impl MigrationDestination {
    /// Reads the two fields of the form. The monitor may be empty.
    ///
    /// # Errors
    /// [`DestinationError`].
    pub fn parse(uri: &str, monitor: &str) -> Result<MigrationDestination, DestinationError> {
        let (uri, monitor) = (uri.trim(), monitor.trim());
        monitor::check_migration_uri(uri)?;
        let monitor = match monitor {
            "" => None,
            text => Some(text.parse::<QmpAddress>()?.to_string()),
        };
        Ok(MigrationDestination { uri: uri.to_owned(), monitor })
    }
}

/// Why a migration cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file beside the recording cannot be written.
    #[error(
        "the migration of {guest} was not started: cannot write to the folder of recordings {}: \
         {source}; make room in it or make it writable, or start landfall serve with another folder \
         (--recordings)",
        folder.display()
    )]
    Folder {
        /// The guest.
        guest: String,
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process cannot be started.
    #[error(
        "the migration of {guest} was not started: cannot run {}: {source}; if landfall was updated or \
         moved, restart landfall serve",
        program.display()
    )]
    Spawn {
        /// The guest.
        guest: String,
        /// landfall's program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The migration runs, but its note could not be written.
    #[error(
        "the migration of {guest} runs, but the page cannot follow it, because {} cannot be written: \
         {source}; follow and change it by `landfall set {monitor}`",
        path.display()
    )]
    Note {
        /// The guest.
        guest: String,
        /// The guest's monitor.
        monitor: String,
        /// The note.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl MigrationFolder {
    /// Opens a folder that only the page's own user or root can write in. Creates it, for its owner alone,
    /// if it is missing.
    ///
    /// # Errors
    /// [`OpenFolderError`].
    pub fn open(folder: &Path, program: PathBuf) -> Result<MigrationFolder, OpenFolderError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let failed = |source| OpenFolderError::Create { folder: folder.to_owned(), source };
        created.map_err(failed)?;
        let found = fs::metadata(folder).map_err(failed)?;
        let (owner_uid, mode) = (found.uid(), found.mode() & 0o7777);
        let ours = owner_uid == 0 || owner_uid == rustix::process::geteuid().as_raw();
        if !ours || mode & 0o022 != 0 {
            return Err(OpenFolderError::Foreign { folder: folder.to_owned(), owner_uid, mode });
        }
        Ok(MigrationFolder { folder: folder.to_owned(), program })
    }

    /// Returns all migrations in the folder, newest first.
    pub fn list(&self) -> Vec<RecordedMigration> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let name_of = |file: &str| {
            let (name, _) =
                file.split_once(".jsonl").or_else(|| file.split_once(".started.json"))?;
            is_valid_name(name).then(|| name.to_owned())
        };
        let mut names: Vec<String> =
            files.filter_map(|file| name_of(file.file_name().to_str()?)).collect();
        names.sort();
        names.dedup();
        let mut all: Vec<RecordedMigration> =
            names.iter().filter_map(|name| self.get(name)).collect();
        all.sort_by_key(|migration| std::cmp::Reverse(migration.started_at()));
        all
    }

    /// Returns the migration of a name.
    pub fn get(&self, name: &str) -> Option<RecordedMigration> {
        if !is_valid_name(name) {
            return None;
        }
        let file = self.recording_path(name);
        let note = fs::read(note_path(&file)).ok();
        let start_note = note.and_then(|note| serde_json::from_slice(&note).ok());
        let migration = RecordedMigration { name: name.to_owned(), file, start_note };
        (migration.start_note.is_some() || migration.file.exists()).then_some(migration)
    }

    /// Starts a migration and returns its name.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        &self,
        guest: &str,
        source: &str,
        destination: &MigrationDestination,
        form: &SettingsForm,
    ) -> Result<String, StartError> {
        let not_written = |source| StartError::Folder {
            guest: guest.to_owned(),
            folder: self.folder.clone(),
            source,
        };
        let not_run = |source| StartError::Spawn {
            guest: guest.to_owned(),
            program: self.program.clone(),
            source,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = self.reserve_name(guest, now).map_err(not_written)?;
        let file = self.recording_path(&name);
        let mut options = form.migrate_options();
        if let Some(monitor) = &destination.monitor {
            options.extend(["--destination-qmp".to_owned(), monitor.clone()]);
        }
        let mut command = Command::new(&self.program);
        command.args(["migrate", source, &destination.uri]).args(&options);
        command.arg("--record").arg(&file).args(["--json", "--own-session"]);
        command.stdin(Stdio::null());
        command.stdout(fs::File::create_new(report_path(&file)).map_err(not_written)?);
        command.stderr(fs::File::create_new(log_path(&file)).map_err(not_written)?);
        let mut child = command.spawn().map_err(not_run)?;
        let process = child.id().and_then(|pid| Process::from_pid(i32::try_from(pid).ok()?));
        // Collects the exit status; otherwise the process stays in the table as a zombie.
        tokio::spawn(async move { child.wait().await });
        let note = StartNote {
            guest: guest.to_owned(),
            source: source.to_owned(),
            destination: destination.uri.clone(),
            destination_qmp: destination.monitor.clone(),
            options,
            settings: form.settings.clone(),
            started_at: now.as_secs(),
            process,
        };
        let path = note_path(&file);
        let written = serde_json::to_vec(&note)
            .map_err(io::Error::from)
            .and_then(|note| fs::write(&path, note));
        written.map_err(|error| StartError::Note {
            guest: guest.to_owned(),
            monitor: source.to_owned(),
            path,
            source: error,
        })?;
        Ok(name)
    }

    /// Chooses a name from the time and the guest that no migration has, and creates its empty note.
    fn reserve_name(&self, guest: &str, now: Duration) -> io::Result<String> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let guest: String = guest.chars().map(plain).take(MAX_GUEST_IN_NAME).collect();
        let stamp = UtcTime::from_unix_seconds(now.as_secs()).file_stamp();
        let base = format!("{stamp}-{guest}");
        for number in 1..MAX_SAME_NAMES {
            let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            match fs::File::create_new(note_path(&self.recording_path(&name))) {
                Ok(_) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    fn recording_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.jsonl"))
    }
}

impl RecordedMigration {
    /// Returns whether the landfall that the page started still steers it.
    pub fn is_running(&self) -> bool {
        let process = self.start_note.as_ref().and_then(|note| note.process);
        process.is_some_and(Process::is_alive)
    }

    /// Returns when it started, in seconds since 1970.
    pub fn started_at(&self) -> u64 {
        let modified = || {
            let time = fs::metadata(&self.file).and_then(|meta| meta.modified()).ok()?;
            Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        self.start_note.as_ref().map(|note| note.started_at).or_else(modified).unwrap_or(0)
    }

    /// Returns the name that people read: the guest's, or the recording's if the guest is not known.
    pub fn title(&self) -> &str {
        match &self.start_note {
            Some(note) if !note.guest.is_empty() => &note.guest,
            _ => &self.name,
        }
    }

    /// Returns landfall's report, as it is beside the recording. A migration that was refused has a report
    /// and no recording.
    pub fn report(&self) -> Option<Report> {
        serde_json::from_slice(&fs::read(report_path(&self.file)).ok()?).ok()
    }

    /// Returns the end of what landfall wrote to standard error.
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(log_path(&self.file)).unwrap_or_default();
        let from = bytes.len().saturating_sub(MAX_SHOWN_LOG_BYTES);
        String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
    }

    /// Sends SIGINT to the landfall that steers it, which then restores everything and ends.
    ///
    /// # Errors
    /// [`SteeringError::Over`], [`SteeringError::Signal`].
    pub fn interrupt(&self) -> Result<(), SteeringError> {
        let over = || SteeringError::Over { name: self.name.clone() };
        let process = self.start_note.as_ref().and_then(|note| note.process).ok_or_else(over)?;
        let pid = Pid::from_raw(process.pid).ok_or_else(over)?;
        // With the pidfd open, the number cannot become another process's. Only then is it checked.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| over())?;
        if !process.is_alive() {
            return Err(over());
        }
        pidfd_send_signal(pidfd, Signal::INT)
            .map_err(|error| SteeringError::Signal { pid: process.pid, source: error.into() })
    }
}

fn note_path(recording: &Path) -> PathBuf {
    recording.with_extension("started.json")
}

fn report_path(recording: &Path) -> PathBuf {
    recording.with_extension("report.json")
}

fn log_path(recording: &Path) -> PathBuf {
    recording.with_extension("log")
}

/// Returns whether a name is the name of files in the folder and cannot lead out of it.
fn is_valid_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let visible = !name.is_empty() && !name.starts_with('.');
    visible && name.len() <= MAX_NAME_LENGTH && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_folder(folder: &tempfile::TempDir, program: &str) -> MigrationFolder {
        MigrationFolder::open(folder.path(), program.into()).unwrap()
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let migrations = open_folder(&folder, "/bin/true");
        for name in ["..", "../etc/passwd", "a/b", "", ".hidden", "a.b", "ä"] {
            assert!(migrations.get(name).is_none(), "{name}");
        }
        fs::write(folder.path().join("x-1.jsonl"), "").unwrap();
        assert_eq!(migrations.get("x-1").unwrap().title(), "x-1");
        assert_eq!(migrations.list().len(), 1);
    }

    #[test]
    fn a_folder_that_other_users_can_write_in_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let set_mode = |mode| fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode));
        for mode in [0o777, 0o1777, 0o775] {
            set_mode(mode).unwrap();
            let error = MigrationFolder::open(folder.path(), "/bin/true".into()).unwrap_err();
            assert!(matches!(error, OpenFolderError::Foreign { .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains("chmod go-w"), "{error}");
        }
        set_mode(0o755).unwrap();
        assert!(MigrationFolder::open(folder.path(), "/bin/true".into()).is_ok());
    }

    #[test]
    fn a_migration_whose_landfall_is_gone_is_not_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let migrations = open_folder(&folder, "/bin/true");
        // The process of this test, as if it had started at another time.
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Some(Process { pid, start_time_ticks: 1 });
        let note = StartNote {
            guest: "vm".into(),
            source: "unix:/a".into(),
            destination: "tcp:h:1".into(),
            destination_qmp: None,
            options: vec![],
            settings: Settings::default(),
            started_at: 7,
            process,
        };
        let written = serde_json::to_vec(&note).unwrap();
        fs::write(folder.path().join("x.started.json"), written).unwrap();
        let found = migrations.get("x").unwrap();
        assert!(!found.is_running() && found.start_note.as_ref() == Some(&note));
        let error = found.interrupt().unwrap_err();
        assert!(matches!(error, SteeringError::Over { .. }), "{error}");
    }

    #[test]
    fn a_destination_that_is_not_valid_is_named_with_the_remedy() {
        let valid = MigrationDestination::parse(" tcp:h:1 ", " ").unwrap();
        assert_eq!(valid, MigrationDestination { uri: "tcp:h:1".into(), monitor: None });
        let uri = MigrationDestination::parse("h:1", "").unwrap_err().to_string();
        assert!(uri.contains("\"h:1\"") && uri.contains("tcp:host:port"), "{uri}");
        let monitor = MigrationDestination::parse("tcp:h:1", "vm.qmp").unwrap_err().to_string();
        assert!(monitor.contains("\"vm.qmp\"") && monitor.contains("unix:/path"), "{monitor}");
    }

    #[tokio::test]
    async fn a_migration_that_cannot_be_started_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let migrations = open_folder(&folder, "/nowhere/landfall");
        let destination = MigrationDestination::parse("tcp:h:1", "").unwrap();
        let form = SettingsForm::parse(&[]);
        let error = migrations.start("vm", "unix:/a", &destination, &form).unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("/nowhere/landfall") && text.contains("restart"), "{text}");
    }
}

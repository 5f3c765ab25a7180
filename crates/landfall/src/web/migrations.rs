//! Migrations that the page starts, and all that were recorded in its folder.
//!
//! Each one is a `landfall migrate` of its own, in a session of its own: neither the end of the page nor
//! a fault in it touches a migration. Beside each recording lies a note of what was started and which
//! process it is, so that another `landfall serve` finds it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use landfall_core::report::Report;
use landfall_core::requirements::settings::Demands;
use landfall_qemu::procfs::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::settings::Settings;

/// Most that is shown of what a landfall said on standard error.
const SAID: usize = 4000;

/// What was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// How people call the guest.
    pub guest: String,
    /// Its monitor.
    pub source: String,
    /// The migration URI.
    pub destination: String,
    /// The destination's monitor, where it was said.
    pub destination_qmp: Option<String>,
    /// The options, as on the command line.
    pub options: Vec<String>,
    /// What was demanded at the start.
    pub demands: Demands,
    /// Seconds since 1970.
    pub at: u64,
    /// The landfall that steers.
    pub process: Option<Process>,
}

/// A migration in the folder.
#[derive(Debug, Clone)]
pub struct Migration {
    /// The recording's name without its ending; the page's address has it.
    pub name: String,
    /// The recording.
    pub file: PathBuf,
    /// What was started; `None` for a recording from elsewhere.
    pub started: Option<Started>,
}

/// Where recordings are.
#[derive(Debug, Clone)]
pub struct Migrations {
    folder: PathBuf,
    /// landfall's own program.
    program: PathBuf,
}

/// Where a guest is to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// The migration URI.
    pub destination: String,
    /// The destination's monitor.
    pub destination_qmp: Option<String>,
}

impl Migrations {
    /// Those in a folder, which is made, for its owner alone, where it is missing.
    ///
    /// # Errors
    /// In words: the folder cannot be had.
    pub fn open(folder: &Path, program: PathBuf) -> Result<Migrations, String> {
        use std::os::unix::fs::DirBuilderExt;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| {
            format!("--recordings {}: {error}; name a folder that can be made", folder.display())
        })?;
        Ok(Migrations { folder: folder.to_owned(), program })
    }

    /// All in the folder, the newest first.
    pub fn list(&self) -> Vec<Migration> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let stem = |name: &str| {
            let (stem, _) =
                name.split_once(".jsonl").or_else(|| name.split_once(".started.json"))?;
            is_name(stem).then(|| stem.to_owned())
        };
        let mut names: Vec<String> =
            files.filter_map(|file| stem(file.file_name().to_str()?)).collect();
        names.sort();
        names.dedup();
        let mut all: Vec<Migration> = names.iter().filter_map(|name| self.get(name)).collect();
        all.sort_by_key(|migration| std::cmp::Reverse(migration.at()));
        all
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<Migration> {
        if !is_name(name) {
            return None;
        }
        let file = self.folder.join(format!("{name}.jsonl"));
        let note = fs::read(file.with_extension("started.json")).ok();
        let started = note.and_then(|note| serde_json::from_slice(&note).ok());
        let migration = Migration { name: name.to_owned(), file, started };
        (migration.started.is_some() || migration.file.exists()).then_some(migration)
    }

    /// Starts one and gives its name.
    ///
    /// # Errors
    /// In words: it cannot be started.
    pub fn start(
        &self,
        guest: &str,
        source: &str,
        way: &Way,
        settings: &Settings,
    ) -> Result<String, String> {
        let failed = |error: io::Error| format!("the migration cannot be started: {error}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = self.new_name(guest, now).map_err(failed)?;
        let file = self.folder.join(format!("{name}.jsonl"));
        let mut options = settings.options();
        if let Some(monitor) = &way.destination_qmp {
            options.extend(["--destination-qmp".to_owned(), monitor.clone()]);
        }
        let mut command = Command::new(&self.program);
        command.args(["migrate", source, &way.destination]).args(&options);
        command.arg("--record").arg(&file).args(["--json", "--own-session"]);
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(file.with_extension("report.json")).map_err(failed)?);
        command.stderr(fs::File::create(file.with_extension("log")).map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let process = child.id().and_then(|pid| Process::from_pid(i32::try_from(pid).ok()?));
        // It ends when it ends; somebody has to take note, or it stays in the table of processes.
        tokio::spawn(async move { child.wait().await });
        let started = Started {
            guest: guest.to_owned(),
            source: source.to_owned(),
            destination: way.destination.clone(),
            destination_qmp: way.destination_qmp.clone(),
            options,
            demands: settings.demands.clone(),
            at: now.as_secs(),
            process,
        };
        let note = serde_json::to_vec(&started).map_err(|error| failed(error.into()))?;
        fs::write(file.with_extension("started.json"), note).map_err(failed)?;
        Ok(name)
    }

    /// A name that no other has: when, and which guest.
    fn new_name(&self, guest: &str, now: Duration) -> io::Result<String> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let guest: String = guest.chars().map(plain).take(40).collect();
        let base = format!("{}-{guest}", stamp(now.as_secs()));
        for number in 1..1000 {
            let name = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let note = self.folder.join(format!("{name}.started.json"));
            match fs::File::create_new(note) {
                Ok(_) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }
}

impl Migration {
    /// Whether the landfall that the page started still steers it.
    pub fn is_under_way(&self) -> bool {
        let process = self.started.as_ref().and_then(|started| started.process);
        process.is_some_and(Process::is_alive)
    }

    /// When it began, in seconds since 1970.
    pub fn at(&self) -> u64 {
        let written = || {
            let time = fs::metadata(&self.file).and_then(|meta| meta.modified()).ok()?;
            Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
        };
        self.started.as_ref().map(|started| started.at).or_else(written).unwrap_or(0)
    }

    /// How people call its guest.
    pub fn guest(&self) -> &str {
        self.started.as_ref().map_or("", |started| &started.guest)
    }

    /// What landfall reported at its end; of one that was refused there is no recording.
    pub fn report(&self) -> Option<Report> {
        serde_json::from_slice(&fs::read(self.file.with_extension("report.json")).ok()?).ok()
    }

    /// The last that it said on standard error.
    pub fn said(&self) -> String {
        let bytes = fs::read(self.file.with_extension("log")).unwrap_or_default();
        let from = bytes.len().saturating_sub(SAID);
        String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
    }

    /// Asks the landfall that steers it to give up. It puts everything back and ends.
    ///
    /// # Errors
    /// In words: there is none.
    pub fn interrupt(&self) -> Result<(), String> {
        let over = || "the migration is over already; there is nothing to cancel".to_owned();
        let process = self.started.as_ref().and_then(|started| started.process).ok_or_else(over)?;
        let pid = Pid::from_raw(process.pid).ok_or_else(over)?;
        // The number is looked at once it cannot become another process's any more.
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| over())?;
        if !process.is_alive() {
            return Err(over());
        }
        pidfd_send_signal(handle, Signal::INT)
            .map_err(|error| format!("landfall (process {}) cannot be told: {error}", process.pid))
    }
}

/// What can be a part of a file's name here, and of nothing else.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 120 && name.bytes().all(plain)
}

/// `20261122-023139`, in UTC.
pub fn stamp(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Year, month and day of so many days after 1970-01-01 (Hinnant's `civil_from_days`).
pub fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let migrations = Migrations::open(folder.path(), "/bin/true".into()).unwrap();
        for name in ["..", "../etc/passwd", "a/b", "", ".hidden", "a.b", "ä"] {
            assert!(migrations.get(name).is_none(), "{name}");
        }
        fs::write(folder.path().join("x-1.jsonl"), "").unwrap();
        assert_eq!(migrations.get("x-1").unwrap().guest(), "");
        assert_eq!(migrations.list().len(), 1);
    }

    #[test]
    fn a_landfall_that_is_gone_is_not_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let migrations = Migrations::open(folder.path(), "/bin/true".into()).unwrap();
        // This very process, had it begun at another time.
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Some(Process { pid, start_time_ticks: 1 });
        let started = Started {
            guest: "vm".into(),
            source: "unix:/a".into(),
            destination: "tcp:h:1".into(),
            destination_qmp: None,
            options: vec![],
            demands: Demands::default(),
            at: 7,
            process,
        };
        let note = serde_json::to_vec(&started).unwrap();
        fs::write(folder.path().join("x.started.json"), note).unwrap();
        let found = migrations.get("x").unwrap();
        assert!(!found.is_under_way() && found.started.as_ref() == Some(&started));
        assert!(found.interrupt().unwrap_err().contains("over already"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_795_314_699, "20261122-023139"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(stamp(seconds), expected);
        }
    }
}

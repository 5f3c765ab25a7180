//! One program of a hook: started without a shell, in a process group of its own, fed the facts, and
//! killed with its group when its time is over.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{sleep, timeout};

use super::HookPoint;

/// How long a program may take that nothing else waits for.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How long its last words may take to arrive once it has ended: a child of its may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Bytes of its standard error that are kept: the last line is shown.
const KEPT: usize = 4096;

/// Why a hook has failed.
#[derive(Debug, thiserror::Error)]
pub enum HookFailure {
    /// It cannot be started.
    #[error("it cannot be started: {0}; see whether the file is a program or begins with #!")]
    Start(io::Error),
    /// It refuses, or has failed.
    #[error("it ended with {status}{}", said(last_words))]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last line of its standard error.
        last_words: String,
    },
    /// It takes too long.
    #[error("it was not done after {} s and was killed", after.as_secs_f64())]
    TimedOut {
        /// After how long.
        after: Duration,
    },
    /// The kernel does not say what became of it.
    #[error("its end is not known: {0}")]
    Lost(io::Error),
}

fn said(last_words: &str) -> String {
    if last_words.is_empty() { String::new() } else { format!(": {last_words}") }
}

/// Why a file cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum NotRunnable {
    /// It cannot be found or looked at.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// It is a directory or something else.
    #[error("it is not a file")]
    NotAFile,
    /// No user may execute it.
    #[error("it is not executable; chmod +x it")]
    NotExecutable,
    /// Another user could have root run what that user likes.
    #[error(
        "root would run it, and other users may write {}, of user {owner_uid} with mode {mode:03o}; chown it \
         to root and chmod go-w it",
        path.display()
    )]
    WritableByOthers {
        /// The file, or a directory above it.
        path: PathBuf,
        /// The user it belongs to.
        owner_uid: u32,
        /// Its permissions.
        mode: u32,
    },
}

/// Checks that a file can be run, as far as can be seen without running it.
///
/// # Errors
/// [`NotRunnable`].
pub fn check(program: &Path) -> Result<(), NotRunnable> {
    let found = fs::metadata(program)?;
    if !found.is_file() {
        return Err(NotRunnable::NotAFile);
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(NotRunnable::NotExecutable);
    }
    if geteuid().is_root() { check_writers(program) } else { Ok(()) }
}

/// Checks that only root can change a file, or put another one in its place: the file and the directories
/// above it belong to root, and are not writable by others. A directory may be if it is sticky, as `/tmp`
/// is, since there each user can replace files of their own only.
fn check_writers(program: &Path) -> Result<(), NotRunnable> {
    let real = fs::canonicalize(program)?;
    // A symbolic link can be put elsewhere by those who may write where it is.
    let beside = program.parent().into_iter().flat_map(Path::ancestors);
    for path in real.ancestors().chain(beside) {
        let found = fs::metadata(path)?;
        let (owner_uid, mode) = (found.uid(), found.mode() & 0o7777);
        let sticky = found.is_dir() && mode & 0o1000 != 0;
        if owner_uid != 0 || (mode & 0o022 != 0 && !sticky) {
            let path = path.to_owned();
            return Err(NotRunnable::WritableByOthers { path, owner_uid, mode });
        }
    }
    Ok(())
}

/// Runs a program to its end, or to the end of its time.
///
/// Everything that landfall has open closes itself in a new program, so this one gets nothing but the
/// three streams here.
pub async fn run(
    program: &Path,
    point: HookPoint,
    facts: &str,
    limit: Duration,
) -> Result<(), HookFailure> {
    let mut command = Command::new(program);
    command.env("LANDFALL_POINT", point.name()).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(HookFailure::Start)?;
    let group = Group::of(&child);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listening = child.stderr.take().map(|pipe| tokio::spawn(listen(pipe, Arc::clone(&heard))));
    let Ok(ended) = timeout(limit, fed(&mut child, facts)).await else {
        drop(group);
        let _ = timeout(LIMIT, child.wait()).await;
        return Err(HookFailure::TimedOut { after: limit });
    };
    group.has_ended();
    let status = ended.map_err(HookFailure::Lost)?;
    if let Some(mut listening) = listening
        && timeout(LAST_WORDS, &mut listening).await.is_err()
    {
        listening.abort();
    }
    let last_words = last_line(&heard.lock().unwrap_or_else(|broken| broken.into_inner()));
    if status.success() { Ok(()) } else { Err(HookFailure::Ended { status, last_words }) }
}

/// Gives a program the facts and waits for its end. One that does not read them may do so.
async fn fed(child: &mut Child, facts: &str) -> io::Result<ExitStatus> {
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(facts.as_bytes()).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = child.wait() => status,
        () = feed => Err(io::ErrorKind::Other.into()),
    }
}

/// Keeps the end of what it says. All is read, so that it never waits to be heard.
async fn listen(mut pipe: ChildStderr, heard: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; KEPT];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        keep(&mut heard.lock().unwrap_or_else(|broken| broken.into_inner()), &buffer[..count]);
        // A program that writes without end leaves time for the migration.
        sleep(Duration::from_millis(1)).await;
    }
}

fn keep(heard: &mut Vec<u8>, more: &[u8]) {
    heard.extend_from_slice(more);
    let surplus = heard.len().saturating_sub(KEPT);
    heard.drain(..surplus);
}

/// The last line that says something, without what would move a terminal's cursor.
fn last_line(heard: &[u8]) -> String {
    let text = String::from_utf8_lossy(heard);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

/// A process group that is killed when this goes, unless it is over: when its time is up, and when
/// landfall is told to end.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Group {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// It has ended by itself. What it left running is its own business, and its number is free.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error means that it has just ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_other_users_may_change_is_not_run_by_root() {
        if !geteuid().is_root() {
            eprintln!("skipped: takes root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("hooks");
        let program = directory.join("hook");
        fs::create_dir(&directory).unwrap();
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
        for (of_directory, of_program, runs) in [
            (0o755, 0o755, true),
            (0o1777, 0o755, true),
            (0o777, 0o755, false),
            (0o775, 0o755, false),
            (0o755, 0o757, false),
            (0o755, 0o775, false),
        ] {
            set(&directory, of_directory).unwrap();
            set(&program, of_program).unwrap();
            let checked = check(&program);
            assert_eq!(checked.is_ok(), runs, "{of_directory:o} {of_program:o}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
        set(&directory, 0o755).unwrap();
        set(&program, 0o755).unwrap();
        std::os::unix::fs::chown(&program, Some(1), None).unwrap();
        assert!(matches!(check(&program), Err(NotRunnable::WritableByOthers { owner_uid: 1, .. })));
    }
}

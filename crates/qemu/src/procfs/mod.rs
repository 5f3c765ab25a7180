//! What the kernel says about processes and threads under `/proc`: the only reader of it here.
//!
//! [`parse`] reads the text of each file, [`qemu_options`] the command line of a QEMU; both are pure. [`maps`] is
//! about the memory map, [`sockets`] about who serves a connection, [`executable`] about the program of a
//! process. This module opens the files, and answers which process is a QEMU
//! ([`Process::is_qemu`], [`is_qemu`]).
//!
//! A process or thread can end between any two reads, so every function reports that as
//! [`ProcError::Ended`], not as an input/output error.

pub mod executable;
pub mod maps;
pub mod parse;
pub mod qemu_options;
pub mod sockets;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use parse::{CgroupMount, Membership, SchedStat, TaskStat, TaskStatus};

/// One process of this host, for good: a process id is used again after its process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its process id, as seen from landfall's PID namespace.
    pub pid: i32,
    /// When it started, in clock ticks after boot (field 22 of `/proc/PID/stat`). Together with the
    /// process id it identifies one process until the next boot.
    pub start_time_ticks: u64,
}

/// Why a file below `/proc` gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The process or thread has ended, or never existed in this PID namespace. Also returned for a
    /// zombie where the question is about a running task.
    #[error(
        "{task} has ended, or does not exist in this PID namespace; run landfall where QEMU runs"
    )]
    Ended {
        /// The process or thread, as its directory: `/proc/PID` or `/proc/PID/task/TID`.
        task: String,
    },
    /// The kernel refuses to show the file, most often because it belongs to another user.
    #[error("cannot read {path}: {source}; run landfall as root or as the user of that process", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The file does not have the form that the kernel documents in proc(5).
    #[error("cannot make sense of {path}: {text:?}; please report this together with your kernel's version", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its first 80 characters.
        text: String,
    },
}

impl Process {
    /// Returns the process that has this id now; `None` if there is none, or if it is a zombie.
    pub fn from_pid(pid: i32) -> Option<Process> {
        let stat = read_stat(&process_file(pid, "stat")).ok()?;
        Some(Process { pid, start_time_ticks: stat.start_time_ticks })
    }

    /// Returns whether this very process still runs, and not another one with the same id.
    pub fn is_alive(self) -> bool {
        Process::from_pid(self.pid) == Some(self)
    }

    /// Returns whether this process is a QEMU that runs a guest: see [`is_qemu`]. `false` if it has
    /// ended.
    pub fn is_qemu(self) -> bool {
        self.is_alive() && read_program(self.pid).is_ok_and(|program| is_qemu(&program))
    }
}

/// Returns whether a program is a QEMU which runs a guest, by its file name: `qemu-system-*`, `qemu-kvm`
/// (Red Hat), `kvm` (Debian, Proxmox VE) or `qemu`; also `.qemu-system-*-wrapped` (NixOS).
///
/// QEMU's tools (`qemu-img`, `qemu-nbd`, `qemu-ga`, `qemu-storage-daemon`, ...) and its user-mode
/// emulators (`qemu-aarch64`, ...) do not count: they have no vCPUs to hold. The kernel's own name for
/// a process (`comm`) is not used, because `-name process=` changes it.
pub fn is_qemu(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix('.').unwrap_or(name);
    name.starts_with("qemu-system-") || matches!(name, "qemu" | "qemu-kvm" | "kvm")
}

/// Returns the ids of all processes that `/proc` shows, in ascending order.
pub fn list_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Returns the file of the program that a process runs (`/proc/PID/exe`), also where that has been replaced
/// since. A user who may not see it gets the first word of the command line, which the process may have
/// chosen; but such a user cannot hold its threads either.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`].
pub fn read_program(pid: i32) -> Result<String, ProcError> {
    match fs::read_link(process_file(pid, "exe")) {
        Ok(path) => Ok(executable::without_deleted(&path.to_string_lossy()).to_owned()),
        Err(_) => Ok(read_command_line(pid)?.into_iter().next().unwrap_or_default()),
    }
}

/// Returns the words of a process's command line, the program's name first. Bytes that are not UTF-8
/// are replaced; a zombie and a kernel thread have an empty list.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`].
pub fn read_command_line(pid: i32) -> Result<Vec<String>, ProcError> {
    let path = process_file(pid, "cmdline");
    let bytes = fs::read(&path).map_err(|source| read_error(&path, source))?;
    Ok(parse::command_line(&bytes))
}

/// Returns the working directory of a process, which paths on its command line are relative to.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`]: only root and the process's own user may know.
pub fn read_working_directory(pid: i32) -> Result<PathBuf, ProcError> {
    let path = process_file(pid, "cwd");
    fs::read_link(&path).map_err(|source| read_error(&path, source))
}

/// Returns the process that a thread belongs to.
///
/// # Errors
/// [`ProcError`]; [`ProcError::Ended`] if there is no such thread.
pub fn thread_group(tid: i32) -> Result<i32, ProcError> {
    Ok(read_status(&process_file(tid, "status"))?.tgid)
}

/// Returns the scheduler's times of a thread.
///
/// # Errors
/// [`ProcError`].
pub fn thread_schedstat(tid: i32) -> Result<SchedStat, ProcError> {
    let path = process_file(tid, "schedstat");
    let text = read_text(&path)?;
    parse::schedstat(&text).ok_or_else(|| unreadable(&path, &text))
}

/// The scheduler's times of a thread, to be read often: the file stays open.
#[derive(Debug)]
pub struct SchedStatFile {
    file: File,
    path: PathBuf,
}

impl SchedStatFile {
    /// Opens the file of a thread.
    ///
    /// # Errors
    /// [`ProcError::Ended`], [`ProcError::Read`].
    pub fn open(tid: i32) -> Result<SchedStatFile, ProcError> {
        let path = process_file(tid, "schedstat");
        let file = File::open(&path).map_err(|source| read_error(&path, source))?;
        Ok(SchedStatFile { file, path })
    }

    /// Returns what [`thread_schedstat`] does, without opening the file again.
    ///
    /// # Errors
    /// [`ProcError`].
    pub fn read(&self) -> Result<SchedStat, ProcError> {
        // Three numbers of at most 20 digits.
        let mut text = [0; 80];
        let read = self.file.read_at(&mut text, 0);
        let length = read.map_err(|source| read_error(&self.path, source))?;
        let text = String::from_utf8_lossy(&text[..length]);
        parse::schedstat(&text).ok_or_else(|| unreadable(&self.path, &text))
    }
}

/// Returns what `stat` says about a running thread.
///
/// # Errors
/// [`ProcError`]; [`ProcError::Ended`] also for a zombie.
pub fn thread_stat(pid: i32, tid: i32) -> Result<TaskStat, ProcError> {
    read_stat(&thread_file(pid, tid, "stat"))
}

/// Returns what `status` says about a thread.
///
/// # Errors
/// [`ProcError`].
pub fn thread_status(pid: i32, tid: i32) -> Result<TaskStatus, ProcError> {
    read_status(&thread_file(pid, tid, "status"))
}

/// Returns the cgroups that a thread is in.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`].
pub fn thread_membership(pid: i32, tid: i32) -> Result<Membership, ProcError> {
    Ok(parse::membership(&read_text(&thread_file(pid, tid, "cgroup"))?))
}

/// Returns the cgroup hierarchies that are mounted in landfall's own mount namespace.
///
/// # Errors
/// [`ProcError::Read`].
pub fn cgroup_mounts() -> Result<Vec<CgroupMount>, ProcError> {
    Ok(parse::cgroup_mounts(&read_text(Path::new("/proc/self/mountinfo"))?))
}

/// Returns the path `/proc/PID/NAME`. The kernel also answers for the id of any thread there.
pub fn process_file(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Returns the path `/proc/PID/task/TID/NAME`.
pub fn thread_file(pid: i32, tid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

/// Turns an error of reading a file below `/proc` into what it means for the task.
pub(crate) fn read_error(path: &Path, source: io::Error) -> ProcError {
    // A task that ends between opening and reading a file of it gives ESRCH.
    let ended = source.kind() == io::ErrorKind::NotFound
        || Errno::from_io_error(&source) == Some(Errno::SRCH);
    match ended {
        true => ended_task(path),
        false => ProcError::Read { path: path.to_owned(), source },
    }
}

/// Returns the error for a file that does not have the form the kernel documents.
pub(crate) fn unreadable(path: &Path, text: &str) -> ProcError {
    ProcError::Unreadable { path: path.to_owned(), text: text.chars().take(80).collect() }
}

fn ended_task(path: &Path) -> ProcError {
    let task = path.parent().unwrap_or(path);
    ProcError::Ended { task: task.display().to_string() }
}

fn read_stat(path: &Path) -> Result<TaskStat, ProcError> {
    let text = read_text(path)?;
    let stat = parse::task_stat(&text).ok_or_else(|| unreadable(path, &text))?;
    if stat.has_ended { Err(ended_task(path)) } else { Ok(stat) }
}

fn read_status(path: &Path) -> Result<TaskStatus, ProcError> {
    let text = read_text(path)?;
    parse::task_status(&text).ok_or_else(|| unreadable(path, &text))
}

fn read_text(path: &Path) -> Result<String, ProcError> {
    let bytes = fs::read(path).map_err(|source| read_error(path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_pid() -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    #[test]
    fn a_process_that_is_gone_is_not_alive_even_if_its_number_is_used_again() {
        let process = Process::from_pid(own_pid()).unwrap();
        assert!(process.is_alive());
        let earlier = Process { start_time_ticks: process.start_time_ticks + 1, ..process };
        assert!(!earlier.is_alive());
        assert_eq!(Process::from_pid(i32::MAX), None);
    }

    #[test]
    fn a_thread_belongs_to_its_process_and_a_missing_one_has_ended() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(thread_group(tid).unwrap(), own_pid());
        assert!(matches!(thread_group(i32::MAX), Err(ProcError::Ended { .. })));
        assert!(matches!(thread_stat(own_pid(), i32::MAX), Err(ProcError::Ended { .. })));
        let user = rustix::process::getuid().as_raw();
        assert_eq!(thread_status(own_pid(), tid).unwrap().real_uid, user);
    }

    #[test]
    fn an_open_file_tells_the_times_of_now() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let file = SchedStatFile::open(tid).unwrap();
        let before = file.read().unwrap();
        while file.read().unwrap().cpu_time == before.cpu_time {}
        assert!(thread_schedstat(tid).unwrap().cpu_time > before.cpu_time);
        assert!(matches!(SchedStatFile::open(i32::MAX), Err(ProcError::Ended { .. })));
    }

    #[test]
    fn this_test_is_found_among_all_processes_and_is_not_a_qemu() {
        assert!(list_pids().contains(&own_pid()));
        assert!(!read_command_line(own_pid()).unwrap().is_empty());
        assert!(read_working_directory(own_pid()).unwrap().is_absolute());
        assert!(!Process::from_pid(own_pid()).unwrap().is_qemu());
    }

    #[test]
    fn a_process_that_calls_itself_qemu_is_not_one() {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg0("qemu-system-x86_64").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // The kernel sets the command line a moment after it has closed what `spawn` waits for.
        let named = loop {
            match read_command_line(pid).unwrap().into_iter().next() {
                Some(named) => break named,
                None => std::thread::yield_now(),
            }
        };
        let is_qemu = Process::from_pid(pid).unwrap().is_qemu();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(named, "qemu-system-x86_64");
        assert!(!is_qemu);
    }

    #[test]
    fn qemus_of_all_distributions_count_and_their_tools_do_not() {
        let counts = is_qemu;
        for program in [
            "/usr/bin/qemu-system-x86_64",
            "qemu-system-aarch64",
            "/usr/libexec/qemu-kvm",
            "/usr/bin/kvm",
            "qemu",
            "/nix/store/x/bin/.qemu-system-x86_64-wrapped",
        ] {
            assert!(counts(program), "{program}");
        }
        for program in ["qemu-img", "qemu-storage-daemon", "qemu-aarch64", "bash", "/kvm/", ""] {
            assert!(!counts(program), "{program}");
        }
    }
}

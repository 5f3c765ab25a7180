//! Finds the QEMUs that run on this host, by `/proc`. Does not connect to any monitor: a monitor serves
//! one client at a time, and another program may be using it.
//!
//! Any user can start a process that calls itself a QEMU, and operators act on what they see here as
//! root. So a process counts only if it runs a QEMU's program file ([`ProgramFile::is_trusted_qemu`]),
//! and the page says whose it is. Where the kernel does not tell the page which program another user's
//! process runs, that QEMU is not found; `--guest` names it.

use std::fs;

use landfall_qemu::procfs;
use landfall_qemu::procfs::executable::ProgramFile;
use landfall_qemu::procfs::qemu_options::QemuOptions;
use landfall_qemu::qmp::QmpAddress;
use rustix::process::geteuid;

/// A QEMU with a QMP monitor that landfall can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredQemu {
    /// Its process.
    pub pid: i32,
    /// The user that it runs as.
    pub owner: QemuOwner,
    /// What its command line says. Paths of monitors are absolute; at least one monitor is there.
    pub options: QemuOptions,
}

/// The user that a QEMU runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuOwner {
    /// The user's number.
    pub uid: u32,
    /// The user's name, if this host has one for it.
    pub name: Option<String>,
}

impl QemuOwner {
    fn of_user(uid: u32) -> QemuOwner {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        QemuOwner { uid, name: user_name(&users, uid) }
    }

    /// Returns the owner in words for the page; `None` where it is root or the page's own user.
    pub fn shown(&self) -> Option<String> {
        let ordinary = self.uid == 0 || self.uid == geteuid().as_raw();
        (!ordinary).then(|| match &self.name {
            Some(name) => format!("of user {name} ({})", self.uid),
            None => format!("of user {}", self.uid),
        })
    }

    /// Returns whether a guest of `source` may be offered this user's QEMU as a destination: root's, the
    /// page's own and the source's own only, so that no other user can draw guests to themselves.
    pub fn may_be_offered(&self, source: Option<&QemuOwner>) -> bool {
        self.shown().is_none() || source.is_some_and(|source| source.uid == self.uid)
    }
}

/// Finds the name of a user in the text of `/etc/passwd`.
fn user_name(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Returns all QEMUs on this host that have a reachable monitor, by process id.
pub fn discover_qemus() -> Vec<DiscoveredQemu> {
    procfs::list_pids().into_iter().filter_map(qemu_of_process).collect()
}

fn qemu_of_process(pid: i32) -> Option<DiscoveredQemu> {
    let words = procfs::read_command_line(pid).ok()?;
    let program = ProgramFile::of_process(pid).ok()?;
    if !program.is_trusted_qemu(geteuid().as_raw()) {
        return None;
    }
    let mut options = QemuOptions::parse(&words);
    let folder = procfs::read_working_directory(pid).unwrap_or_default();
    for monitor in &mut options.monitors {
        if let QmpAddress::Unix(path) = monitor {
            *path = folder.join(&*path);
        }
    }
    // A socket in another mount namespace cannot be reached from here by its path.
    options.monitors.retain(|monitor| match monitor {
        QmpAddress::Unix(path) => path.exists(),
        QmpAddress::Tcp(_) => true,
    });
    let owner = QemuOwner::of_user(procfs::thread_status(pid, pid).ok()?.real_uid);
    (!options.monitors.is_empty()).then_some(DiscoveredQemu { pid, owner, options })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_only_calls_itself_a_qemu_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm.qmp");
        fs::write(&socket, "").unwrap();
        let mut command = Command::new("sh");
        command.arg0("qemu-system-x86_64").stdin(Stdio::piped());
        // A shell reads its standard input until that ends; the rest are its parameters.
        command.args(["-s", "--", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", socket.display()));
        let mut child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Until the shell is there the child has no command line of its own.
        let is_there = |words: &Vec<String>| words.first().is_some_and(|it| procfs::is_qemu(it));
        let mut tries = (0..1000).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            procfs::read_command_line(pid).unwrap()
        });
        let words = tries.find(is_there).unwrap();
        let found = qemu_of_process(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(QemuOptions::parse(&words).monitors, [QmpAddress::Unix(socket)]);
        assert_eq!(found, None);
    }

    #[test]
    fn owners_other_than_root_and_the_page_are_named_and_their_qemus_not_offered() {
        let users = "root:x:0:0:root:/root:/bin/sh\nlibvirt-qemu:x:64055:108::/:/bin/false\nbad\n";
        assert_eq!(user_name(users, 64_055).as_deref(), Some("libvirt-qemu"));
        assert_eq!(user_name(users, 7), None);
        let owner = |uid, name: Option<&str>| QemuOwner { uid, name: name.map(str::to_owned) };
        let other = owner(64_055, Some("libvirt-qemu"));
        assert_eq!(other.shown().as_deref(), Some("of user libvirt-qemu (64055)"));
        assert_eq!(owner(7, None).shown().as_deref(), Some("of user 7"));
        let root = owner(0, Some("root"));
        assert_eq!(root.shown(), None);
        assert!(root.may_be_offered(Some(&other)) && other.may_be_offered(Some(&other)));
        assert!(!other.may_be_offered(Some(&root)) && !other.may_be_offered(None));
    }
}

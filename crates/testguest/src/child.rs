//! Child processes that never outlive this one, and that are ended by their own process id alone.

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

/// A child that is killed and reaped when this is dropped, and killed by the kernel when this
/// process dies in whatever way.
#[derive(Debug)]
pub(crate) struct Child(process::Child);

impl Child {
    /// Starts a program.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn spawn(command: Command) -> io::Result<Self> {
        let (reply, answer) = channel();
        let gone = || io::Error::other("the thread that starts children is gone");
        let starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
        starter.send((command, reply)).map_err(|_| gone())?;
        drop(starter);
        answer.recv().map_err(|_| gone())?.map(Self)
    }

    /// Its process id. Stays its own while this lives, for it is not reaped before.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it has ended and been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type SpawnRequest = (Command, Sender<io::Result<process::Child>>);

/// The kernel sends the death signal when the *thread* that forked ends, not the process. Tests and
/// pools end threads all the time, so all children are forked by one thread that ends only with
/// the process.
static STARTER: LazyLock<Mutex<Sender<SpawnRequest>>> = LazyLock::new(|| {
    let (requests, received) = channel::<SpawnRequest>();
    let work = move || {
        for (mut command, reply) in received {
            // The requester may be gone; the child then ends with its handle.
            let _ = reply.send(spawn_tied(&mut command)).map_err(|failed| failed.0.map(Child));
        }
    };
    // Without a thread the requests' receiver is dropped, and `Child::spawn` says so.
    let _ = thread::Builder::new().name("child-starter".to_owned()).spawn(work);
    Mutex::new(requests)
});

#[allow(unsafe_code)]
fn spawn_tied(command: &mut Command) -> io::Result<process::Child> {
    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only what is async-signal-safe may be done; `tie` makes two
    // system calls and allocates nothing.
    unsafe { command.pre_exec(tie) }.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Child::spawn(command).unwrap()
    }

    fn is_there(id: u32) -> bool {
        PathBuf::from(format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_dropped_child_is_ended_and_reaped() {
        let child = sleeper();
        let id = child.id();
        assert!(is_there(id));
        drop(child);
        assert!(!is_there(id));
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(sleeper).join().unwrap();
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            assert_eq!(child.ended().unwrap(), None);
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_not_a_child() {
        let error = Child::spawn(Command::new("/nowhere/qemu")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

//! Reserves CPUs for the guest's vCPUs, so that an experiment shows what a policy takes from a guest and not
//! what everything else on a small machine does.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs of the host on which nothing else runs that this process has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolatedCpus(CpuSet);

impl IsolatedCpus {
    /// Reserves as many CPUs as a guest has vCPUs, at most all but one, and confines the calling thread to
    /// the others. Threads and processes that it starts later inherit that; those that run already stay
    /// where they are, and so do all other processes of the machine. `None` if the machine has one CPU.
    ///
    /// # Errors
    /// Those of `sched_getaffinity` and `sched_setaffinity`.
    pub fn isolate(vcpus: u32) -> io::Result<Option<IsolatedCpus>> {
        let mut others = sched_getaffinity(None)?;
        let apart = (others.count().saturating_sub(1)).min(vcpus);
        if apart == 0 {
            return Ok(None);
        }
        let mut kept = CpuSet::new();
        let mine = others;
        for cpu in (0..CpuSet::MAX_CPU).rev().filter(|cpu| mine.is_set(*cpu)).take(apart as usize) {
            others.unset(cpu);
            kept.set(cpu);
        }
        sched_setaffinity(None, &others)?;
        Ok(Some(IsolatedCpus(kept)))
    }

    /// Confines a thread to these CPUs.
    pub(crate) fn confine_thread(self, thread: u32) -> io::Result<()> {
        let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
        // No thread has such a number; `None` would be the caller.
        let thread = thread.ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(sched_setaffinity(Some(thread), &self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_reserved_cpus_and_the_others_are_all_there_were() {
        let before = sched_getaffinity(None).unwrap();
        let work = || {
            let apart = IsolatedCpus::isolate(1).unwrap();
            let mine = sched_getaffinity(None).unwrap();
            let inherited = thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
            (apart, mine, inherited)
        };
        let (apart, mine, inherited) = thread::spawn(work).join().unwrap();
        assert_eq!(mine, inherited);
        assert_eq!(sched_getaffinity(None).unwrap(), before, "other threads stay as they are");
        let Some(IsolatedCpus(kept)) = apart else {
            assert_eq!((before.count(), mine), (1, before));
            return;
        };
        assert_eq!((kept.count(), mine.count()), (1, before.count() - 1));
        assert!(
            (0..CpuSet::MAX_CPU)
                .all(|cpu| before.is_set(cpu) == (kept.is_set(cpu) != mine.is_set(cpu)))
        );
    }
}

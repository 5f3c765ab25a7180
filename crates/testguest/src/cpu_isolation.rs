//! Processors for the guest's vCPUs alone, so that an experiment shows what a policy takes from a
//! guest and not what everything else on a small machine does.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Processors on which nothing else of this process's making runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors(CpuSet);

impl Processors {
    /// Sets as many processors as a guest has vCPUs apart, at most all but one, and confines the
    /// calling thread to the others. What it starts from then on, threads and processes, inherits
    /// that; what runs already stays where it is, and so does whatever others run on the machine.
    /// `None` where there is but one.
    ///
    /// # Errors
    /// Those of `sched_getaffinity` and `sched_setaffinity`.
    pub fn set_apart(vcpus: u32) -> io::Result<Option<Processors>> {
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
        Ok(Some(Processors(kept)))
    }

    /// Confines a thread to them.
    pub(crate) fn take(self, thread: u32) -> io::Result<()> {
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
    fn what_is_set_apart_and_what_is_left_are_all_there_was() {
        let before = sched_getaffinity(None).unwrap();
        let work = || {
            let apart = Processors::set_apart(1).unwrap();
            let mine = sched_getaffinity(None).unwrap();
            let inherited = thread::spawn(|| sched_getaffinity(None).unwrap()).join().unwrap();
            (apart, mine, inherited)
        };
        let (apart, mine, inherited) = thread::spawn(work).join().unwrap();
        assert_eq!(mine, inherited);
        assert_eq!(sched_getaffinity(None).unwrap(), before, "other threads stay as they are");
        let Some(Processors(kept)) = apart else {
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

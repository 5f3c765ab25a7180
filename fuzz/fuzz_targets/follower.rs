//! A recording that is read while it grows by pieces of any length says the same as one read whole.

#![no_main]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use landfall_migration::recording::follow::FollowError;
use landfall_migration::recording::{Recording, RecordingFollower, first_and_last_line};
use libfuzzer_sys::fuzz_target;

/// One file for all inputs, in memory where there is such a file system.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = PathBuf::from("/dev/shm");
    let folder = if shared.is_dir() { shared } else { std::env::temp_dir() };
    folder.join(format!("landfall-fuzz-follower-{}", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    fs::write(&*FILE, []).unwrap();
    let mut follower = RecordingFollower::new(&FILE);
    let mut followed = Ok(Vec::new());
    for part in bytes.chunks((usize::from(piece) + 1) * 64) {
        let mut file = OpenOptions::new().append(true).open(&*FILE).unwrap();
        file.write_all(part).unwrap();
        followed = followed.and_then(|mut lines| {
            while let Some(more) = follower.read_next_lines()? {
                lines.extend(more);
            }
            Ok::<_, FollowError>(lines)
        });
    }
    let (first, _) = first_and_last_line(&FILE);
    fs::remove_file(&*FILE).unwrap();
    // Read whole, a last line without its end counts; followed, it is waited for.
    let ended = bytes.ends_with(b"\n");
    if let (true, Ok(whole)) = (ended, Recording::read(bytes)) {
        assert_eq!(follower.head.as_ref(), Some(&whole.head));
        assert!(first.is_none_or(|first| first == whole.head));
        let lines: Vec<_> = whole.lines.into_iter().map(|(_, line)| line).collect();
        assert_eq!(followed.unwrap(), lines);
    }
});

//! The memory map of a process, from `/proc/PID/maps`.
//!
//! The kernel writes this file from its list of mappings alone. It walks no page tables for it, as it does
//! for `smaps`, so reading it takes no longer for a large guest than for a small one.

use super::{ProcError, process_file, read_text};

/// A mapping of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// It can be read.
    pub is_readable: bool,
    /// It can be written.
    pub is_writable: bool,
    /// It can be executed.
    pub is_executable: bool,
    /// What is written to it goes to the file, and to all who map the file (`MAP_SHARED`).
    pub is_shared: bool,
    /// Where in its file it begins.
    pub offset: u64,
    /// The inode of its file; 0 for memory without a file.
    pub inode: u64,
    /// The name of its file or, in square brackets, of its kind; empty for plain memory.
    pub path: String,
}

impl Mapping {
    /// Returns whether the mapping is memory: anonymous, or of a file. A mapping of a device is not: to read
    /// it can be an act (the registers of a passed-through device).
    pub fn is_memory(&self) -> bool {
        const MEMORY: [&str; 4] = ["/dev/shm/", "/dev/hugepages", "/dev/zero", "/dev/dax"];
        const OTHER: [&str; 4] = ["/dev/", "/sys/", "/proc/", "anon_inode:"];
        let begins = |names: &[&str]| names.iter().any(|name| self.path.starts_with(name));
        begins(&MEMORY) || !begins(&OTHER)
    }
}

/// Returns the mappings of a process, in ascending order of their addresses.
///
/// # Errors
/// [`ProcError::Ended`]; [`ProcError::Read`] without the right to trace the process.
pub fn read_mappings(pid: i32) -> Result<Vec<Mapping>, ProcError> {
    Ok(mappings(&read_text(&process_file(pid, "maps"))?))
}

/// Reads the lines of a `maps` file: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`. A line that is not
/// of this form is left out.
pub fn mappings(maps: &str) -> Vec<Mapping> {
    maps.lines().filter_map(mapping).collect()
}

fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let mut next = || fields.next();
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let (start, end) = next()?.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let &[read, write, execute, shared] = next()?.as_bytes() else { return None };
    let offset = hex(next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    // Blanks before the path line the paths up; a path may have blanks of its own.
    let path = fields.next().unwrap_or_default().trim_start().to_owned();
    (start < end).then_some(Mapping {
        start,
        end,
        is_readable: read == b'r',
        is_writable: write == b'w',
        is_executable: execute == b'x',
        is_shared: shared == b's',
        offset,
        inode,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPS: &str = "\
7fec00000000-7fec10000000 rw-p 00000000 00:00 0 
7fec10000000-7fec1ffff000 rwxp 00000000 00:00 0 
7fec20000000-7fec28000000 rw-s 00200000 00:0f 12                         /dev/hugepages/a b
7fec30000000-7fec30001000 rw-s 00000000 00:06 99                         /dev/vfio/7
7fec40000000-7fec40001000 ---p 00000000 00:00 0 
7fec50000000-7fec58000000 rw-s 00000000 00:01 1050                       /memfd:memory-backend-memfd (deleted)
";

    #[test]
    fn mappings_are_read_with_their_files() {
        let read = mappings(MAPS);
        assert_eq!(read.len(), 6);
        let file = &read[2];
        assert_eq!((file.start, file.end), (0x7fec_2000_0000, 0x7fec_2800_0000));
        assert_eq!(
            (file.offset, file.inode, file.path.as_str()),
            (0x20_0000, 12, "/dev/hugepages/a b")
        );
        assert!(file.is_readable && file.is_writable && file.is_shared && !file.is_executable);
        assert!(read[1].is_executable && !read[4].is_readable && read[0].path.is_empty());
    }

    #[test]
    fn a_device_is_not_memory() {
        let memory: Vec<bool> = mappings(MAPS).iter().map(Mapping::is_memory).collect();
        assert_eq!(memory, [true, true, true, false, true, true]);
    }

    #[test]
    fn this_test_finds_its_own_memory() {
        let page = [1u8; 64];
        let address = page.as_ptr() as u64;
        let own = read_mappings(std::process::id() as i32).unwrap();
        let of = own.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
        assert!(of.is_some_and(|of| of.is_readable && of.is_writable && of.is_memory()));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "([0-9a-f]{0,18}[- ]|[rwxsp-]{0,5} |[0-9:]{0,9} |\\PC{0,9}\n){0,40}") {
            prop_assert!(mappings(&text).iter().all(|mapping| mapping.start < mapping.end));
        }

        #[test]
        fn no_mutation_of_a_real_file_makes_the_reader_panic(
            cut in 0..MAPS.len(), junk in "[ 0-9a-f:/,.-]{0,8}",
        ) {
            let _ = mappings(&format!("{}{junk}{}", &MAPS[..cut], &MAPS[cut..]));
        }
    }
}

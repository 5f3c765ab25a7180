//! Where the guest's memory is in QEMU's address space.

use landfall_core::units::{Bytes, PAGE};

use crate::procfs::maps::Mapping;
use crate::ram_blocks::RamBlock;

/// A stretch of guest memory that can be looked at: whole pages in one mapping of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestRegion {
    /// Its first address.
    pub(super) start: u64,
    /// How many pages it has.
    pub(super) pages: u64,
    /// The mapping.
    pub(super) mapping: Mapping,
}

/// The memory of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GuestMemory {
    /// What can be looked at.
    pub(super) regions: Vec<GuestRegion>,
    /// All its memory.
    pub(super) total: Bytes,
    /// Names of the blocks that cannot be looked at, or not at all of them.
    pub(super) left_out: Vec<String>,
}

impl GuestRegion {
    /// Returns the part of `mapping` that lies between two addresses; `None` if there is no page of it.
    fn within(mapping: &Mapping, start: u64, end: u64) -> Option<GuestRegion> {
        let start = mapping.start.max(start).checked_next_multiple_of(PAGE.0)?;
        let pages = mapping.end.min(end).checked_sub(start)? / PAGE.0;
        (pages > 0).then(|| GuestRegion { start, pages, mapping: mapping.clone() })
    }

    fn size(&self) -> Bytes {
        Bytes(self.pages.saturating_mul(PAGE.0))
    }
}

impl GuestMemory {
    /// Returns the memory of a guest with these blocks, by the addresses that QEMU tells. `None` if it tells
    /// no addresses, or if nothing of the blocks is mapped there: then they are another process's.
    ///
    /// A block may consist of several mappings, and parts of it may not be readable: those are left out.
    pub(super) fn by_address(blocks: &[RamBlock], mappings: &[Mapping]) -> Option<GuestMemory> {
        let mut memory = GuestMemory::default();
        for block in blocks {
            memory.total = add(memory.total, block.used);
            let start = block.address?;
            let end = start.saturating_add(block.used.0);
            let readable = mappings.iter().filter(|mapping| {
                mapping.is_readable && mapping.is_memory() && mapping.start < end
            });
            let found: Vec<GuestRegion> =
                readable.filter_map(|mapping| GuestRegion::within(mapping, start, end)).collect();
            if found.iter().map(GuestRegion::size).fold(Bytes(0), add).0 + PAGE.0 <= block.used.0 {
                memory.left_out.push(block.name.clone());
            }
            memory.regions.extend(found);
        }
        (!memory.regions.is_empty()).then_some(memory)
    }

    /// Returns the memory of a guest whose blocks have these sizes: each is told from QEMU's other mappings
    /// by its size. `None` if there are no blocks, or one that no mapping can hold.
    ///
    /// Executable mappings are left out because TCG's buffer of translated code can be larger than the guest.
    pub(super) fn by_size(blocks: &[Bytes], mappings: &[Mapping]) -> Option<GuestMemory> {
        let may_hold = |mapping: &&Mapping| {
            let Mapping { is_readable, is_writable, is_executable, .. } = **mapping;
            is_readable && is_writable && !is_executable && mapping.is_memory()
        };
        let mut mappings: Vec<&Mapping> = mappings.iter().filter(may_hold).collect();
        mappings.sort_by_key(|mapping| mapping.end - mapping.start);
        let mut blocks = blocks.to_vec();
        blocks.sort();
        let mut memory = GuestMemory::default();
        // From the largest block: each gets the smallest mapping that holds it, and a smaller block then
        // cannot take a mapping that a larger one needs.
        for block in blocks.iter().rev() {
            let holds = |mapping: &&Mapping| mapping.end - mapping.start >= block.0;
            let at = mappings.iter().position(holds)?;
            let mapping = mappings.remove(at);
            let end = mapping.start.saturating_add(block.0);
            memory.regions.extend(GuestRegion::within(mapping, mapping.start, end));
            memory.total = add(memory.total, *block);
        }
        (!memory.regions.is_empty()).then_some(memory)
    }

    /// Returns how much of it can be looked at.
    pub(super) fn covered(&self) -> Bytes {
        self.regions.iter().map(GuestRegion::size).fold(Bytes(0), add)
    }
}

fn add(one: Bytes, other: Bytes) -> Bytes {
    Bytes(one.0.saturating_add(other.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::maps::mappings;
    use crate::ram_blocks::ram_blocks;
    use proptest::prelude::*;

    const MAPS: &str = "\
100000000-110000000 rw-p 00000000 00:00 0 
110000000-150000000 rwxp 00000000 00:00 0 
200000000-204000000 rw-s 00000000 00:0f 12                         /dev/hugepages/a b
204000000-208000000 rw-s 04000000 00:0f 12                         /dev/hugepages/a b
300000000-301000000 rw-s 00000000 00:06 99                         /dev/vfio/7
400000000-401000000 ---p 00000000 00:00 0 
500000000-500040000 r--p 00000000 00:00 0 
";

    fn block(name: &str, mib: u64, address: Option<u64>) -> RamBlock {
        RamBlock { name: name.to_owned(), used: Bytes::mib(mib), address }
    }

    #[test]
    fn blocks_are_found_by_their_addresses_in_as_many_mappings_as_they_have() {
        let blocks = [
            block("pc.ram", 256, Some(0x1_0000_0000)),
            block("dimm", 128, Some(0x2_0000_0000)),
            RamBlock { used: Bytes(256 << 10), ..block("rom", 0, Some(0x5_0000_0000)) },
        ];
        let memory = GuestMemory::by_address(&blocks, &mappings(MAPS)).unwrap();
        let pages: Vec<u64> = memory.regions.iter().map(|region| region.pages).collect();
        assert_eq!(pages, [65536, 16384, 16384, 64]);
        assert_eq!((memory.covered(), memory.left_out.len()), (memory.total, 0));
    }

    #[test]
    fn what_is_a_device_or_unreadable_or_elsewhere_is_named_and_not_looked_at() {
        let blocks = [
            block("pc.ram", 256, Some(0x1_0000_0000)),
            block("registers", 16, Some(0x3_0000_0000)),
            block("guarded", 16, Some(0x4_0000_0000)),
            block("gone", 16, Some(0x6_0000_0000)),
        ];
        let memory = GuestMemory::by_address(&blocks, &mappings(MAPS)).unwrap();
        assert_eq!(memory.left_out, ["registers", "guarded", "gone"]);
        assert_eq!((memory.covered(), memory.total), (Bytes::mib(256), Bytes::mib(304)));
        assert_eq!(GuestMemory::by_address(&blocks[1..], &mappings(MAPS)), None);
    }

    #[test]
    fn without_addresses_the_guests_memory_is_told_by_its_size() {
        let found = |mib: &[u64]| {
            let blocks: Vec<Bytes> = mib.iter().map(|mib| Bytes::mib(*mib)).collect();
            let memory = GuestMemory::by_size(&blocks, &mappings(MAPS))?;
            Some(memory.regions.iter().map(|region| region.start).collect::<Vec<u64>>())
        };
        assert_eq!(found(&[64, 256]), Some(vec![0x1_0000_0000, 0x2_0000_0000]));
        assert_eq!(found(&[1024]), None);
        assert_eq!(found(&[200, 200]), None);
        assert_eq!(found(&[]), None);
        assert_eq!(GuestMemory::by_address(&[block("pc.ram", 256, None)], &mappings(MAPS)), None);
    }

    proptest! {
        #[test]
        fn no_blocks_lead_out_of_the_mappings(
            text in "(a 4 KiB 0x0 0x[0-9a-f]{1,16} 0x0 0x[0-9a-f]{1,16} rw\n){0,4}",
            maps in "([0-9a-f]{1,16}-[0-9a-f]{1,16} r[w-]-[ps] 0 0:0 0 \n){0,4}",
        ) {
            if let Some(memory) = GuestMemory::by_address(&ram_blocks(&text), &mappings(&maps)) {
                for GuestRegion { start, pages, mapping } in memory.regions {
                    prop_assert!(start >= mapping.start && start + pages * PAGE.0 <= mapping.end);
                }
            }
        }
    }
}

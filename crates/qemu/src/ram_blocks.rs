//! The blocks of memory that QEMU migrates, from the text of its `x-query-ramblock`.
//!
//! The command is in QEMU 7.2 and in 10.0, and unstable by QEMU's own word: its text may change, and
//! `-compat unstable-input=reject` refuses it. That of 7.2 has no host addresses, that of 10.0 has.

use landfall_core::units::Bytes;

/// A block of memory that a migration transfers: the guest's RAM, a DIMM, video memory, a ROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// QEMU's name for it, the same at both ends of a migration.
    pub name: String,
    /// Its length in use, which is what is transferred.
    pub used: Bytes,
    /// Its first address in QEMU's memory; `None` where QEMU does not tell it.
    pub address: Option<u64>,
}

/// Reads the lines of the text, each a block: `NAME PSIZE UNIT OFFSET USED TOTAL [HVA ro|rw]`. A line that
/// is not of this form is left out, as is the heading. So are blocks without a name, which QEMU does not
/// migrate: mapped registers and memory of passed-through devices.
pub fn ram_blocks(text: &str) -> Vec<RamBlock> {
    text.lines().filter_map(ram_block).collect()
}

fn ram_block(line: &str) -> Option<RamBlock> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let (words, address) = match words[..] {
        [ref words @ .., hva, "ro" | "rw"] => (words, Some(hex(hva)?)),
        ref words => (words, None),
    };
    let [name @ .., size, _unit, offset, used, total] = words else { return None };
    let (_, _, used, _) = (size.parse::<u64>().ok()?, hex(offset)?, hex(used)?, hex(total)?);
    let name = name.join(" ");
    (!name.is_empty() && used > 0).then_some(RamBlock { name, used: Bytes(used), address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As QEMU 10.0.2 writes it, with a passed-through device's block added.
    const TEXT: &str = "\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f4c37e00000  rw
   0000:00:02.0/vga.vram    4 KiB  0x0000000010080000 0x0000000001000000 0x0000000001000000 0x00007f4c36c00000  rw
    /rom@etc/acpi/tables    4 KiB  0x00000000110c0000 0x0000000000020000 0x0000000000200000 0x00007f4c94800000  ro
                            4 KiB  0x0000000012000000 0x0000000000004000 0x0000000000004000 0x00007f4c94a00000  rw
";

    #[test]
    fn blocks_are_read_with_their_addresses_and_those_that_do_not_migrate_are_left_out() {
        let blocks = ram_blocks(TEXT);
        let names: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
        assert_eq!(names, ["pc.ram", "0000:00:02.0/vga.vram", "/rom@etc/acpi/tables"]);
        let used = blocks.iter().map(|block| block.used).sum::<Bytes>();
        assert_eq!(used, Bytes((272 << 20) + (128 << 10)), "what is used, not what it may grow to");
        assert_eq!(blocks[0].address, Some(0x7f4c_37e0_0000));
    }

    #[test]
    fn the_oldest_supported_qemu_tells_no_addresses() {
        let text = "\
              Block Name    PSize              Offset               Used              Total
                  pc.ram    2 MiB  0x0000000000000000 0x0000000010000000 0x0000000010000000
";
        let block = RamBlock { name: "pc.ram".to_owned(), used: Bytes::mib(256), address: None };
        assert_eq!(ram_blocks(text), [block]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "([a-z/.]{0,4} |4 KiB |0x[0-9a-f]{0,18} |r[ow]|\n){0,60}") {
            prop_assert!(ram_blocks(&text).iter().all(|block| block.used > Bytes(0)));
        }

        #[test]
        fn no_mutation_of_a_real_text_makes_the_reader_panic(
            cut in 0..TEXT.len(), junk in "[ 0-9a-fx]{0,8}\n?",
        ) {
            let _ = ram_blocks(&format!("{}{junk}{}", &TEXT[..cut], &TEXT[cut..]));
        }
    }
}

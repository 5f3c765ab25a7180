//! From QEMU's PVH entry (32-bit, no paging) or a start-up IPI (16-bit real mode) to Rust in long mode.
//!
//! Both roads meet at `enter_long_mode`, with `start_info` or 0 in EDI, and end in [`crate::start`].
//! Every vCPU shares one set of tables: the low 4 GiB mapped to themselves in 2 MiB pages.

use core::arch::global_asm;

/// Most vCPUs a guest can have: one stack each is set aside.
pub const MAX_VCPUS: usize = 16;

/// Where the real-mode code of [`trampoline`] is put: below 1 MiB, page-aligned, unused.
pub const TRAMPOLINE: u64 = 0x8000;

unsafe extern "C" {
    static trampoline_begin: u8;
    static trampoline_end: u8;
    static image_end: u8;
}

/// The code that a start-up IPI must find at [`TRAMPOLINE`].
pub fn trampoline() -> &'static [u8] {
    // SAFETY: both symbols are laid down below, in this order, in one read-only section.
    unsafe {
        let begin = &raw const trampoline_begin;
        let length = (&raw const trampoline_end).offset_from_unsigned(begin);
        core::slice::from_raw_parts(begin, length)
    }
}

/// First address after the image and its zeroed data.
pub fn image_ends_at() -> u64 {
    (&raw const image_end) as u64
}

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .long 4, 4, 18              # sizes of name and descriptor; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start
    .long 0                     # QEMU reads the descriptor of a 64-bit image as 8 bytes

    .section .text.boot, "ax"
    .code32
    .globl pvh_start
pvh_start:                      # EBX: start_info
    movl %ebx, %edi

enter_long_mode:                # EDI: start_info, or 0 on the vCPUs that are started later
    movl %cr4, %eax
    orl $0x620, %eax            # PAE; OSFXSR and OSXMMEXCPT, for core uses SSE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: long mode
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffffb, %eax      # caches on, no FPU emulation
    orl $0x80000023, %eax       # paging, protection, FPU errors as the FPU reports them
    movl %eax, %cr0
    lgdt gdt_register
    ljmp $0x08, $long_mode

    .code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0xfee00020, %eax      # the local APIC's id is the vCPU's number
    movl (%rax), %esi
    shrl $24, %esi
    cmpl ${vcpus}, %esi
    jae 2f
    leal 1(%rsi), %eax
    imull ${stack}, %eax, %eax
    leaq stacks(%rax), %rsp
    xorl %ebp, %ebp
    call {start}
2:  cli
    hlt
    jmp 2b

    # Copied to TRAMPOLINE and entered there in real mode, so it may name only itself and,
    # once in protected mode, the image.
    .section .rodata.trampoline, "a"
    .code16
    .globl trampoline_begin, trampoline_end
trampoline_begin:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (trampoline_gdt - trampoline_begin + {trampoline})
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $later_vcpu
    .balign 4
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .section .text.boot, "ax"
    .code32
later_vcpu:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %edi, %edi
    jmp enter_long_mode
    .code64

    .section .rodata.gdt, "a"
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9a000000ffff    # 0x08: 64-bit code
    .quad 0x00cf92000000ffff    # 0x10: data
    .quad 0x00cf9a000000ffff    # 0x18: 32-bit code
gdt_end:
gdt_register:
    .word gdt_end - gdt - 1
    .long gdt

    # Writable: the CPU sets accessed and dirty bits in them.
    .section .data.paging, "aw"
    .balign 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad directories + 3, directories + 0x1003, directories + 0x2003, directories + 0x3003
    .fill 508, 8, 0
directories:                    # 2 MiB each: present, writable, large
    .set page, 0
    .rept 1792
    .quad (page << 21) | 0x83
    .set page, page + 1
    .endr
    .rept 256                   # devices from 3.5 GiB up: not cached
    .quad (page << 21) | 0x9b
    .set page, page + 1
    .endr

    .section .bss.stacks, "aw", @nobits
    .balign 16
stacks:
    .skip {vcpus} * {stack}
    .text
    "#,
    start = sym crate::start,
    vcpus = const MAX_VCPUS,
    stack = const 32 * 1024,
    trampoline = const TRAMPOLINE,
    options(att_syntax),
);

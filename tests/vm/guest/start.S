/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entry as the Multiboot 0.6.96 loader of QEMU leaves us: 32-bit, flat segments, interrupts off. */

#define MULTIBOOT_HEADER_MAGIC 0x1badb002
#define MULTIBOOT_HEADER_FLAGS 0
#define PIC1_COMMAND 0x20
#define END_OF_INTERRUPT 0x20

	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_HEADER_MAGIC
	.long MULTIBOOT_HEADER_FLAGS
	.long -(MULTIBOOT_HEADER_MAGIC + MULTIBOOT_HEADER_FLAGS)

	.text
	.globl _start
_start:
	movl $stack_top, %esp
	/* The loader's segments are only good until one is loaded, as an interrupt does. */
	lgdt gdtr
	ljmp $gdt_code - gdt, $1f
1:	movl $gdt_data - gdt, %ecx
	movl %ecx, %ds
	movl %ecx, %es
	movl %ecx, %ss
	pushl %ebx
	pushl %eax
	call guest_main

	.globl tick_entry
tick_entry:
	pushl %eax
	movb $END_OF_INTERRUPT, %al
	outb %al, $PIC1_COMMAND
	popl %eax
	iret

	.section .rodata
	.balign 8
gdt:
	.quad 0
gdt_code:
	.quad 0x00cf9b000000ffff
gdt_data:
	.quad 0x00cf93000000ffff
gdtr:
	.word gdtr - gdt - 1
	.long gdt
	.globl code_selector
code_selector:
	.word gdt_code - gdt

	.bss
	.balign 16
	.skip 16384
stack_top:

	.section .note.GNU-stack, "", @progbits

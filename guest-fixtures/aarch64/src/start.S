// Entry of every guest: a stack, then main, then rest. No MMU, no interrupts, caches off.
    .section .text.start
    .globl _start
_start:
    adrp x0, stack_top
    add  x0, x0, :lo12:stack_top
    mov  sp, x0
    bl   main
    b    finish
    .globl rest
rest:
    nop
    b    rest

/* The compiled kernels as read-only data. */
    .section .rodata
    .balign 64
    .global lavit_kernels
    .hidden lavit_kernels
    .type lavit_kernels, @object
lavit_kernels:
    .incbin "kernels.bin"
    .size lavit_kernels, . - lavit_kernels
    .section .note.GNU-stack, "", @progbits

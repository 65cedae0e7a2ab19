/* bcc only puts this number into the program's licence section; kernels since 5.0 ignore it. */
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))

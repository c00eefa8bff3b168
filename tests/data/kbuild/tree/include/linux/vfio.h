#define VFIO_TYPE (0x3B)

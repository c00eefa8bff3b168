/* What the actor needs of linux/iommufd.h; see vfio.h. */
#if __has_include_next(<linux/iommufd.h>)
#include_next <linux/iommufd.h>
#else
#include <linux/ioctl.h>
#include <linux/types.h>

struct iommu_ioas_alloc {
	__u32 size;
	__u32 flags;
	__u32 out_ioas_id;
};
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#endif

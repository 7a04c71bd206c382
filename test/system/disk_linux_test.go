package system_test

import (
	"fmt"
	"syscall"
)

// mountDisk mounts a disk of that many bytes on a directory; it takes root.
func mountDisk(dir string, size int64) error {
	return syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
}

func unmountDisk(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

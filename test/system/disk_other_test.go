//go:build !linux

package system_test

import "errors"

func mountDisk(string, int64) error { return errors.ErrUnsupported }

func unmountDisk(string) error { return errors.ErrUnsupported }

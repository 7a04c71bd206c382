package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrDirInUse is matched by the [InUseError] of [LockDir].
var ErrDirInUse = errors.New("directory in use")

// InUseError says that another live process holds a directory.
type InUseError struct {
	Dir string
	PID int // 0 when the holder has not written its id yet
}

// Error is one line that names the directory and its holder.
func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("directory %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("directory %s is in use by process %d", e.Dir, e.PID)
}

// Is makes errors.Is(err, ErrDirInUse) hold.
func (e *InUseError) Is(target error) bool { return target == ErrDirInUse }

// lockFile is the file inside a locked directory that carries the flock and the holder's process id.
const lockFile = "picket.lock"

// A DirLock is the right of this process to use a directory. The kernel releases it when the process ends, however it
// ends.
type DirLock struct{ file *os.File }

// LockDir takes the directory, which must exist, for this process. It does not wait: when somebody else holds it the
// error is an *[InUseError]. Two calls within one process exclude each other too.
func LockDir(dir string) (*DirLock, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	// flock and not fcntl: it is tied to the open file, which children do not inherit (O_CLOEXEC), so that a PostgreSQL
	// that outlives us does not keep the directory.
	if err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &InUseError{Dir: dir, PID: readPID(file.Name())}
		}
		return nil, fmt.Errorf("lock directory %s: %w", dir, err)
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	return &DirLock{file: file}, nil
}

// Unlock gives the directory back. The lock file stays: removing it would let two processes lock two different files.
func (l *DirLock) Unlock() error {
	// Closing alone is not enough: a child that is being started this very moment has a copy of the descriptor until it
	// runs its program.
	err := flock(l.file, syscall.LOCK_UN)
	if err := errors.Join(err, l.file.Close()); err != nil {
		return fmt.Errorf("unlock directory: %w", err)
	}
	return nil
}

func flock(file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func readPID(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

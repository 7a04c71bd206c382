package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user a PostgreSQL runs as. PostgreSQL refuses to run as root, so a root process gives it another one.
type account struct {
	name     string
	uid, gid int
	switched bool // differs from the user of this process
}

// findAccount is the process' own user, or for root the first of the given, postgres and nobody that exists: initdb
// needs a name for its user, so a bare number would not do.
func findAccount(preferred string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	names := []string{"postgres", "nobody"}
	if preferred != "" {
		names = []string{preferred}
	}
	for _, name := range names {
		found, err := user.Lookup(name)
		if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
			continue
		}
		if err != nil {
			return account{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		uid, errUID := strconv.Atoi(found.Uid)
		gid, errGID := strconv.Atoi(found.Gid)
		if err := errors.Join(errUID, errGID); err != nil {
			return account{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		if uid == 0 {
			continue
		}
		return account{name: name, uid: uid, gid: gid, switched: true}, nil
	}
	return account{}, fmt.Errorf("PostgreSQL does not run as root and none of the users %q exists: create one, or run as a plain user", names)
}

// attributes put a child under the account and in a process group of its own: a signal for ours, such as ctrl-C's,
// does not reach it, because services still have to write what they hold.
func (a account) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if a.switched {
		attributes.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attributes
}

// own gives one file or directory, not what is below it, to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// canReach checks that the account may walk to dir. An embedded server's directory often is below somebody's home, which
// root can enter and an unprivileged user cannot; PostgreSQL's own words for that name neither.
func (a account) canReach(dir string) error {
	if !a.switched {
		return nil
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("check directory: %w", err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		var bit os.FileMode = 0o001
		switch {
		case int(stat.Uid) == a.uid:
			bit = 0o100
		case int(stat.Gid) == a.gid:
			bit = 0o010
		}
		if info.Mode()&bit == 0 {
			return fmt.Errorf("user %s, which runs PostgreSQL for root, cannot enter %s (mode %04o): use another directory or `chmod o+x %s`",
				a.name, dir, info.Mode().Perm(), dir)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

package service

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/picketd/picket/internal/catalog"
)

// Secrets are the keys under which the catalog holds what servers want presented.
type Secrets struct {
	Key         string `env:"PICKET_SECRET_KEY" desc:"Key that seals the tokens of servers: 32 random bytes in base64; the same for api, prober and collector." secret:"true"`
	PreviousKey string `env:"PICKET_SECRET_KEY_PREVIOUS" desc:"The key before, which still opens while tokens are sealed anew." secret:"true"`
}

// Keyring returns the keyring of the keys, nil when none is set. The error wraps [ErrConfig], names the variable and holds
// no key.
func (s Secrets) Keyring() (*catalog.Keyring, error) {
	if s.Key == "" {
		if s.PreviousKey != "" {
			return nil, fmt.Errorf("%w: PICKET_SECRET_KEY_PREVIOUS is set without PICKET_SECRET_KEY", ErrConfig)
		}
		return nil, nil
	}
	current, err := decodeKey("PICKET_SECRET_KEY", s.Key)
	var previous [][]byte
	if s.PreviousKey != "" {
		key, fault := decodeKey("PICKET_SECRET_KEY_PREVIOUS", s.PreviousKey)
		previous, err = append(previous, key), errors.Join(err, fault)
	}
	if err != nil {
		return nil, err
	}
	keyring, err := catalog.NewKeyring(current, previous...)
	if err != nil {
		return nil, fmt.Errorf("%w: PICKET_SECRET_KEY: %w", ErrConfig, err)
	}
	return keyring, nil
}

// decodeKey reads base64 in either alphabet, padded or not, as the usual tools write it.
func decodeKey(variable, text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(strings.TrimSpace(text), "="))
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(key) != catalog.SealKeyBytes {
		return nil, fmt.Errorf("%w: %s is not base64 of %d bytes: make one with `openssl rand -base64 %d`",
			ErrConfig, variable, catalog.SealKeyBytes, catalog.SealKeyBytes)
	}
	return key, nil
}

// NewSecretKey makes a key as PICKET_SECRET_KEY takes it.
func NewSecretKey() string {
	key := make([]byte, catalog.SealKeyBytes)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// KeptSecret returns the line that the file at path holds. A file that is not there is made, readable by its owner
// alone, and holds what create returns from then on; created says so. The file is there whole or not at all, so that a
// crash leaves no half of a secret.
func KeptSecret(path string, create func() string) (secret string, created bool, err error) {
	for range 2 {
		content, err := os.ReadFile(path)
		if err == nil {
			secret = strings.TrimRight(string(content), "\r\n")
			if secret == "" {
				return "", false, fmt.Errorf("read secret: %s is empty", path)
			}
			return secret, created, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", false, fmt.Errorf("read secret: %w", err)
		}
		if created, err = keep(path, create()); err != nil {
			return "", false, fmt.Errorf("write secret: %w", err)
		}
	}
	return "", false, fmt.Errorf("read secret: %s vanished", path)
}

// keep writes a file that must not be there; false: somebody else was faster.
func keep(path, secret string) (created bool, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.WriteString(secret + "\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return false, err
	}
	// A link, since a rename would replace what another process has just made.
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	} else if err == nil {
		created = true
	}
	return created, nil
}

package main

import (
	"fmt"
	"path/filepath"

	"github.com/picketd/picket/internal/service"
	"github.com/picketd/picket/internal/store"
)

// Files in the data directory that only its owner may read.
const (
	adminTokenFile = "admin-token"
	secretKeyFile  = "secret-key"
)

// keepSecrets fills in the secrets that nobody has set with those of the data directory, which are made at the first
// start: the token of the first admin, and the key that seals the tokens of servers. It reports whether the token is new,
// and so has to be shown.
func (s *settings) keepSecrets() (newToken bool, err error) {
	if s.API.AdminToken == "" {
		s.API.AdminToken, newToken, err = service.KeptSecret(filepath.Join(s.DataDir, adminTokenFile), func() string {
			return store.NewTokenSecret().Reveal()
		})
		if err != nil {
			return false, fmt.Errorf("first admin's token: %w", err)
		}
		// The file may have been edited.
		if _, err := store.ParseTokenSecret(s.API.AdminToken); err != nil {
			return false, fmt.Errorf("first admin's token in %s: %w", filepath.Join(s.DataDir, adminTokenFile), err)
		}
	}
	if s.Key == "" && s.PreviousKey == "" {
		s.Key, _, err = service.KeptSecret(filepath.Join(s.DataDir, secretKeyFile), service.NewSecretKey)
		if err != nil {
			return false, fmt.Errorf("key of the servers' tokens: %w", err)
		}
	}
	return newToken, nil
}

package catalog

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// SealKeyBytes is the length of a key: AES-256.
const SealKeyBytes = 32

// sealVersion begins every sealed value: `v1:<key id>:<nonce>:<ciphertext>`, the last two in unpadded base64url.
const sealVersion = "v1"

// ErrSeal is wrapped by every error of a Keyring. None of them holds a secret.
var ErrSeal = errors.New("sealed value cannot be opened")

var sealEncoding = base64.RawURLEncoding.Strict()

// Keyring seals secrets that a server wants presented, so that the catalog can hold and carry them, and opens them
// where the probe is built (AES-256-GCM). It is safe for concurrent use.
type Keyring struct {
	// current seals; every key opens, by its ID.
	current string
	keys    map[string]cipher.AEAD
}

// SealedField is where a sealed value belongs; it opens nowhere else.
type SealedField struct{ Org, Server, Check, Field string }

// additional is the field as additional data. None of its parts can hold a NUL.
func (f SealedField) additional() []byte {
	return []byte(strings.Join([]string{sealVersion, f.Org, f.Server, f.Check, f.Field}, "\x00"))
}

// NewKeyring makes a keyring that seals with current and opens with current and with previous: the keys before, during
// a rotation. Keys are 32 random bytes.
func NewKeyring(current []byte, previous ...[]byte) (*Keyring, error) {
	k := &Keyring{keys: map[string]cipher.AEAD{}}
	for i, key := range append([][]byte{current}, previous...) {
		if len(key) != SealKeyBytes {
			return nil, fmt.Errorf("key %d has %d bytes, not %d", i+1, len(key), SealKeyBytes)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		id := keyID(key)
		if i == 0 {
			k.current = id
		}
		k.keys[id] = aead
	}
	return k, nil
}

// keyID names a key without telling anything of it.
func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("picket seal key "), key...))
	return hex.EncodeToString(sum[:4])
}

// Seal returns secret in the form that only this keyring, and only for that field, opens.
func (k *Keyring) Seal(field SealedField, secret string) string {
	aead := k.keys[k.current]
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	sealed := aead.Seal(nil, nonce, []byte(secret), field.additional())
	return strings.Join([]string{sealVersion, k.current, sealEncoding.EncodeToString(nonce), sealEncoding.EncodeToString(sealed)}, ":")
}

// Prefix is what every value begins with that the current key has sealed, and no other.
func (k *Keyring) Prefix() string { return sealVersion + ":" + k.current + ":" }

// Current says whether value was sealed with the key that seals now; what was not is sealed anew in a rotation.
func (k *Keyring) Current(value string) bool {
	id, _, _, ok := splitSealed(value)
	return ok && id == k.current
}

// Open returns the secret. Errors wrap ErrSeal.
func (k *Keyring) Open(field SealedField, value string) (string, error) {
	id, nonce, sealed, ok := splitSealed(value)
	if !ok {
		return "", fmt.Errorf("%w: it has not the form v1:key:nonce:ciphertext", ErrSeal)
	}
	aead, known := k.keys[id]
	if !known {
		return "", fmt.Errorf("%w: there is no key %s", ErrSeal, id)
	}
	secret, err := aead.Open(nil, nonce, sealed, field.additional())
	if err != nil {
		return "", fmt.Errorf("%w: it was sealed for another field, or altered", ErrSeal)
	}
	return string(secret), nil
}

// IsSealed says whether value has the form of a sealed one.
func IsSealed(value string) bool {
	_, _, _, ok := splitSealed(value)
	return ok
}

func splitSealed(value string) (id string, nonce, sealed []byte, ok bool) {
	parts := strings.Split(value, ":")
	if len(parts) != 4 || parts[0] != sealVersion || len(parts[1]) != 8 || len(value) > 2*MaxSecretBytes {
		return "", nil, nil, false
	}
	if _, err := hex.DecodeString(parts[1]); err != nil {
		return "", nil, nil, false
	}
	nonce, err := sealEncoding.DecodeString(parts[2])
	if err != nil || len(nonce) != 12 {
		return "", nil, nil, false
	}
	sealed, err = sealEncoding.DecodeString(parts[3])
	if err != nil || len(sealed) < 16 {
		return "", nil, nil, false
	}
	return parts[1], nonce, sealed, true
}

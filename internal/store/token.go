package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Role says what a token may do; each may what those before it may.
type Role string

// The roles.
const (
	// Viewer reads.
	Viewer Role = "viewer"
	// Operator acts on what is there: checks now, acknowledges, puts into maintenance, exports.
	Operator Role = "operator"
	// Admin changes what is watched and who may ask.
	Admin Role = "admin"
)

// rank orders the roles; 0 is none of them.
func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Operator:
		return 2
	case Admin:
		return 3
	default:
		return 0
	}
}

// Valid says whether r is a role.
func (r Role) Valid() bool { return r.rank() > 0 }

// May says whether r may what needed may.
func (r Role) May(needed Role) bool { return r.rank() > 0 && r.rank() >= needed.rank() }

// ErrTokenForm says that a text has not the form of a token, pk_<id>_<secret>: 8 to 32 of a-z and 0-9, then 32 to 128
// letters and digits. It never holds the text.
var ErrTokenForm = errors.New("not of the form pk_<id>_<secret>")

var tokenForm = regexp.MustCompile(`^pk_([a-z0-9]{8,32})_([A-Za-z0-9]{32,128})$`)

// TokenSecret is a token as it is presented: the id it is found by, and the secret that only its hash is stored of.
type TokenSecret struct {
	ID     string
	secret string
}

// NewTokenSecret makes one at random, 260 bits of secret.
func NewTokenSecret() TokenSecret {
	return TokenSecret{ID: strings.ToLower(rand.Text()[:16]), secret: rand.Text() + rand.Text()}
}

// ParseTokenSecret reads a token; the error matches [ErrTokenForm].
func ParseTokenSecret(text string) (TokenSecret, error) {
	parts := tokenForm.FindStringSubmatch(text)
	if parts == nil {
		return TokenSecret{}, ErrTokenForm
	}
	return TokenSecret{ID: parts[1], secret: parts[2]}, nil
}

// Reveal is the token as it is presented.
func (t TokenSecret) Reveal() string { return "pk_" + t.ID + "_" + t.secret }

// String hides the secret, so that a token that is printed by mistake gives nothing away.
func (t TokenSecret) String() string { return "pk_" + t.ID + "_…" }

// GoString hides the secret as String does.
func (t TokenSecret) GoString() string { return t.String() }

// Hash is what is stored of the secret.
func (t TokenSecret) Hash() [sha256.Size]byte { return sha256.Sum256([]byte(t.secret)) }

// Token is what is stored of a token. Times that are not set are zero.
type Token struct {
	ID, Org, Name          string
	Role                   Role
	CreatedAt              time.Time
	ExpiresAt, RevokedAt   time.Time
	LastUsedAt             time.Time
	RotatedFrom, CreatedBy string
	// Hash is SHA-256 of the secret.
	Hash [sha256.Size]byte
}

//nolint:gosec // names of columns
const tokenColumns = `id, org, name, role, created_at, expires_at, revoked_at, last_used_at, coalesce(rotated_from, ''),
    created_by, hash`

func scanToken(row pgx.CollectableRow) (Token, error) {
	var (
		t                      Token
		expires, revoked, used *time.Time
		hash                   []byte
	)
	err := row.Scan(&t.ID, &t.Org, &t.Name, &t.Role, &t.CreatedAt, &expires, &revoked, &used, &t.RotatedFrom,
		&t.CreatedBy, &hash)
	t.CreatedAt = t.CreatedAt.UTC()
	t.ExpiresAt, t.RevokedAt, t.LastUsedAt = fromNull(expires), fromNull(revoked), fromNull(used)
	copy(t.Hash[:], hash)
	return t, err
}

// toNull is the time, or null when it is zero.
func toNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// LookupToken returns what is stored of a token, revoked and expired ones too. The error matches [ErrNotFound] when
// there is none of that id. Whoever asks compares the hash in constant time.
func (s *Store) LookupToken(ctx context.Context, id string) (Token, error) {
	return s.oneToken(ctx, "look up token", `SELECT `+tokenColumns+` FROM api_tokens WHERE id = $1`, id)
}

// Token returns a token of an organization; the error matches [ErrNotFound].
func (s *Store) Token(ctx context.Context, org, id string) (Token, error) {
	return s.oneToken(ctx, "read token", `SELECT `+tokenColumns+` FROM api_tokens WHERE org = $1 AND id = $2`, org, id)
}

func (s *Store) oneToken(ctx context.Context, what, sql string, args ...any) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", what, err)
	}
	token, err := pgx.CollectExactlyOneRow(rows, scanToken)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w", what, err)
	}
	return token, nil
}

// Tokens returns an organization's tokens in the order of their ids, those after the given one.
func (s *Store) Tokens(ctx context.Context, org, after string, limit int) ([]Token, error) {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT `+tokenColumns+` FROM api_tokens
		WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3`, org, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	tokens, err := pgx.CollectRows(rows, scanToken)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return tokens, nil
}

// CreateToken stores a token, whose ID and Hash are those of its secret; CreatedAt is set here. The error matches
// [ErrNotFound] when there is no such organization, and [ErrExists] when the id is taken.
func (s *Store) CreateToken(ctx context.Context, token Token, audit Audit) (Token, error) {
	var stored Token
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) (err error) {
		if stored, err = insertToken(ctx, tx, token); err != nil {
			return err
		}
		audit.Target, audit.After = stored.ID, describeToken(stored)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Token{}, fmt.Errorf("create token: %w", err)
	}
	return stored, nil
}

func insertToken(ctx context.Context, tx pgx.Tx, t Token) (Token, error) {
	if !t.Role.Valid() {
		return Token{}, fmt.Errorf("unknown role %q", t.Role)
	}
	var rotated *string
	if t.RotatedFrom != "" {
		rotated = &t.RotatedFrom
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO api_tokens (id, org, name, role, expires_at, rotated_from, created_by, hash)
		SELECT $1, slug, $3, $4, $5, $6, $7, $8 FROM organizations WHERE slug = $2 RETURNING `+tokenColumns,
		t.ID, t.Org, t.Name, t.Role, toNull(t.ExpiresAt), rotated, t.CreatedBy, t.Hash[:])
	if err != nil {
		return Token{}, err
	}
	stored, err := pgx.CollectExactlyOneRow(rows, scanToken)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Token{}, fmt.Errorf("organization %q: %w", t.Org, ErrNotFound)
	case Classify(err) == Conflict:
		return Token{}, ErrExists
	}
	return stored, err
}

// RevokeToken ends a token at once; one that is revoked already stays as it is. The error matches [ErrNotFound].
func (s *Store) RevokeToken(ctx context.Context, org, id string, audit Audit) error {
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		token, err := lockToken(ctx, tx, org, id)
		if err != nil || !token.RevokedAt.IsZero() {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE api_tokens SET revoked_at = now() WHERE id = $1`, id); err != nil {
			return err
		}
		audit.Target, audit.Before = id, describeToken(token)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

// RotateToken stores next in the place of the token id: with its organization, role and name, and until both hold for
// overlap, or until the old one would have ended anyway. The error matches [ErrNotFound], or [ErrEnded] when the old one
// is revoked or has expired.
func (s *Store) RotateToken(ctx context.Context, org, id string, next Token, overlap time.Duration, audit Audit) (Token, error) {
	var stored Token
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		old, err := lockToken(ctx, tx, org, id)
		if err != nil {
			return err
		}
		var live bool
		err = tx.QueryRow(ctx, `
			UPDATE api_tokens SET expires_at = least(expires_at, now() + $2::interval)
			WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) RETURNING true`, id, overlap).Scan(&live)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrEnded
		case err != nil:
			return err
		}
		next.Org, next.Role, next.Name, next.RotatedFrom = old.Org, old.Role, old.Name, old.ID
		if stored, err = insertToken(ctx, tx, next); err != nil {
			return err
		}
		audit.Target, audit.Before, audit.After = id, describeToken(old), describeToken(stored)
		return writeAudit(ctx, tx, audit)
	})
	if err != nil {
		return Token{}, fmt.Errorf("rotate token: %w", err)
	}
	return stored, nil
}

func lockToken(ctx context.Context, tx pgx.Tx, org, id string) (Token, error) {
	rows, err := tx.Query(ctx, `SELECT `+tokenColumns+` FROM api_tokens WHERE org = $1 AND id = $2 FOR UPDATE`, org, id)
	if err != nil {
		return Token{}, err
	}
	token, err := pgx.CollectExactlyOneRow(rows, scanToken)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return token, err
}

// describeToken is a token for the record.
func describeToken(t Token) map[string]any {
	described := map[string]any{"id": t.ID, "name": t.Name, "role": t.Role}
	if !t.ExpiresAt.IsZero() {
		described["expires_at"] = t.ExpiresAt
	}
	return described
}

// TouchTokens notes when tokens were last used.
func (s *Store) TouchTokens(ctx context.Context, used map[string]time.Time) error {
	ids, times := make([]string, 0, len(used)), make([]time.Time, 0, len(used))
	for id, at := range used {
		ids, times = append(ids, id), append(times, at)
	}
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		UPDATE api_tokens t SET last_used_at = u.at
		FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at)
		WHERE t.id = u.id AND (t.last_used_at IS NULL OR t.last_used_at < u.at)`, ids, times)
	if err != nil {
		return fmt.Errorf("touch tokens: %w", err)
	}
	return nil
}

// bootstrapActor is who made the tokens that come with the configuration.
const bootstrapActor = "bootstrap"

// BootstrapToken makes sure that a token that came with the configuration is an admin of org, and ends the one that was
// there before it. It may be called at every start and by several processes at once. A token that somebody revoked, or
// rotated, stays
// so: the error matches [ErrEnded].
func (s *Store) BootstrapToken(ctx context.Context, org string, secret TokenSecret) error {
	hash := secret.Hash()
	err := InTx(ctx, s, 0, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO organizations (slug) VALUES ($1) ON CONFLICT DO NOTHING`, org); err != nil {
			return err
		}
		var changed, revoked bool
		err := tx.QueryRow(ctx, `
			INSERT INTO api_tokens AS t (id, org, name, role, created_by, hash) VALUES ($1, $2, $4, 'admin', $4, $3)
			ON CONFLICT (id) DO UPDATE SET hash = excluded.hash
			WHERE t.org = excluded.org AND t.created_by = excluded.created_by
			RETURNING t.xmax = 0, t.revoked_at IS NOT NULL OR coalesce(t.expires_at <= now(), false)`, secret.ID, org, hash[:], bootstrapActor).Scan(&changed, &revoked)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("token %s: %w", secret.ID, ErrExists)
		case err != nil:
			return err
		case revoked:
			return fmt.Errorf("token %s was revoked or rotated: %w", secret.ID, ErrEnded)
		case !changed:
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE api_tokens SET revoked_at = now()
			WHERE org = $1 AND created_by = $2 AND id <> $3 AND revoked_at IS NULL`, org, bootstrapActor, secret.ID)
		if err != nil {
			return err
		}
		return writeAudit(ctx, tx, Audit{
			Org: org, Actor: bootstrapActor, Role: Admin, Action: "token.create", TargetKind: "token", Target: secret.ID,
			After: map[string]any{"id": secret.ID, "name": bootstrapActor, "role": Admin},
		})
	})
	if err != nil {
		return fmt.Errorf("bootstrap token: %w", err)
	}
	return nil
}

// AddOrganization makes an organization; one that is there stays as it is.
func (s *Store) AddOrganization(ctx context.Context, slug, name string) error {
	ctx, cancel := context.WithTimeout(ctx, TxTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `INSERT INTO organizations (slug, name) VALUES ($1, $2) ON CONFLICT DO NOTHING`, slug, name)
	if err != nil {
		return fmt.Errorf("add organization: %w", err)
	}
	return nil
}

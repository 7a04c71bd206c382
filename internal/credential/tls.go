package credential

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TLSIdentity is what makes two sets of TLS options the same, contents of the authorities' file included: their
// connections may be shared.
type TLSIdentity struct {
	insecure          bool
	serverName, ca    string
	certFile, keyFile string
	caSum             [sha256.Size]byte
}

// TLS reads TLS options; nil is all defaults. The error wraps a *health.FieldError. Authorities are read now; the
// client certificate for every handshake, because such certificates are renewed in place, and handshakes are rare where
// connections are kept.
func TLS(opt *picketv1.TLSOptions) (*tls.Config, TLSIdentity, error) {
	id := TLSIdentity{
		insecure: opt.GetInsecureSkipVerify(), serverName: opt.GetServerName(),
		ca: opt.GetCaFile(), certFile: opt.GetCertFile(), keyFile: opt.GetKeyFile(),
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         id.serverName,
		InsecureSkipVerify: id.insecure, //nolint:gosec // the user's declared wish for this check
	}
	if id.ca != "" {
		pem, err := os.ReadFile(id.ca)
		if err != nil {
			return nil, id, &health.FieldError{Field: "tls.ca_file", Err: err}
		}
		id.caSum = sha256.Sum256(pem)
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, id, &health.FieldError{Field: "tls.ca_file", Err: errors.New("holds no certificate")}
		}
	}
	if (id.certFile == "") != (id.keyFile == "") {
		return nil, id, &health.FieldError{Field: "tls.cert_file", Err: errors.New("cert_file and key_file go together")}
	}
	if id.certFile == "" {
		return config, id, nil
	}
	if _, err := tls.LoadX509KeyPair(id.certFile, id.keyFile); err != nil {
		return nil, id, &health.FieldError{Field: "tls.cert_file", Err: err}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(id.certFile, id.keyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: client certificate: %w", health.ErrOwnFault, err)
		}
		return &pair, nil
	}
	return config, id, nil
}

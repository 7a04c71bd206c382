package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/picketd/picket/internal/health"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TLS reads TLS options; nil is all defaults. The error wraps a *health.FieldError. Authorities are read now; the
// client certificate for every handshake, because such certificates are renewed in place.
func TLS(opt *picketv1.TLSOptions) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         opt.GetServerName(),
		InsecureSkipVerify: opt.GetInsecureSkipVerify(), //nolint:gosec // the user's declared wish for this check
	}
	if file := opt.GetCaFile(); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, &health.FieldError{Field: "tls.ca_file", Err: err}
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &health.FieldError{Field: "tls.ca_file", Err: errors.New("holds no certificate")}
		}
	}
	certFile, keyFile := opt.GetCertFile(), opt.GetKeyFile()
	if (certFile == "") != (keyFile == "") {
		return nil, &health.FieldError{Field: "tls.cert_file", Err: errors.New("cert_file and key_file go together")}
	}
	if certFile == "" {
		return config, nil
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		return nil, &health.FieldError{Field: "tls.cert_file", Err: err}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: client certificate: %w", health.ErrOwnFault, err)
		}
		return &pair, nil
	}
	return config, nil
}

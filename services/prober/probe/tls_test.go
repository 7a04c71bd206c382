package probe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// certificate makes one for 127.0.0.1 and checkout.example, signed by itself,
// and writes it with its key into files.
func certificate(t testing.TB, notBefore, notAfter time.Time) (_ tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: notBefore, NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"checkout.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, content := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair, certFile, keyFile
}

func serveTLS(t testing.TB, config *tls.Config) *httptest.Server {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	server.TLS = config
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

func TestTLS(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	ends := now.Add(40 * 24 * time.Hour)
	valid, ca, key := certificate(t, now.Add(-time.Hour), ends)
	expired, expiredCA, _ := certificate(t, now.Add(-48*time.Hour), now.Add(-24*time.Hour))

	good := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{valid}})
	old := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{expired}})
	mutual := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{valid}, ClientAuth: tls.RequireAnyClientCert})
	ancient := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{valid}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	garbage := listen(t, func(c peer) {
		c.hear()
		c.say("this is no handshake")
		c.hangUp()
	})
	mute := listen(t, func(c peer) { c.linger() })

	tests := []struct {
		name           string
		url            string
		tls            *picketv1.TLSOptions
		days           int32
		status, reason string
		notAfter       time.Time
	}{
		{"trusted", good.URL, &picketv1.TLSOptions{CaFile: ca}, 0, "healthy", "", ends},
		{"ends soon", good.URL, &picketv1.TLSOptions{CaFile: ca}, 60, "degraded", "certificate", ends},
		{"other name", good.URL, &picketv1.TLSOptions{CaFile: ca, ServerName: "checkout.example"}, 0, "healthy", "", ends},
		{"wrong name", good.URL, &picketv1.TLSOptions{CaFile: ca, ServerName: "billing.example"}, 0, "unreachable", "certificate_invalid", ends},
		{"self-signed", good.URL, nil, 0, "unreachable", "certificate_invalid", ends},
		{"not verified", good.URL, &picketv1.TLSOptions{InsecureSkipVerify: true}, 0, "healthy", "", ends},
		{"expired", old.URL, &picketv1.TLSOptions{CaFile: expiredCA}, 0, "unreachable", "certificate_expired", now.Add(-24 * time.Hour)},
		{"expired, not verified", old.URL, &picketv1.TLSOptions{InsecureSkipVerify: true}, 0, "healthy", "", now.Add(-24 * time.Hour)},
		{"answers never", good.URL + "/hang", &picketv1.TLSOptions{CaFile: ca}, 0, "unreachable", "timeout", ends},
		{"client certificate", mutual.URL, &picketv1.TLSOptions{CaFile: ca, CertFile: ca, KeyFile: key}, 0, "healthy", "", ends},
		{"client certificate missing", mutual.URL, &picketv1.TLSOptions{CaFile: ca}, 0, "unreachable", "tls", ends},
		{"too old a version", ancient.URL, nil, 0, "unreachable", "tls", time.Time{}},
		{"garbage", "https://" + garbage, nil, 0, "unreachable", "tls", time.Time{}},
		{"mute", "https://" + mute, nil, 0, "unreachable", "timeout", time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			timeout := patient
			if tt.reason == "timeout" {
				timeout = impatient * 4
			}
			pool := newPool(t, PoolOptions{})
			spec := &picketv1.HTTPSpec{Url: tt.url, Tls: tt.tls, MinCertificateDays: tt.days}
			p := compileHTTP(t, pool, spec)
			for range 2 { // the second may be on a kept connection
				r := within(t, p, timeout)
				wantResult(t, r, tt.status, tt.reason)
				var got time.Time
				if r.GetCertificateNotAfter() != nil {
					got = r.GetCertificateNotAfter().AsTime()
				}
				if !got.Equal(tt.notAfter) {
					t.Errorf("certificate ends %v, want %v", got, tt.notAfter)
				}
			}
			if address, secure := tt.url[len("https://"):], tt.status == "healthy"; secure {
				r := within(t, compileTCP(t, pool, &picketv1.TCPSpec{Address: address, UseTls: true, Tls: tt.tls}), timeout)
				wantResult(t, r, "healthy", "")
				if !r.GetCertificateNotAfter().AsTime().Equal(tt.notAfter) {
					t.Errorf("tcp: certificate ends %v, want %v", r.GetCertificateNotAfter(), tt.notAfter)
				}
			}
		})
	}
}

func TestCertificateOfTheLastHop(t *testing.T) {
	t.Parallel()
	soon, later := time.Now().Truncate(time.Second).Add(time.Hour), time.Now().Truncate(time.Second).Add(90*24*time.Hour)
	door, _, _ := certificate(t, time.Now().Add(-time.Hour), soon)
	house, _, _ := certificate(t, time.Now().Add(-time.Hour), later)
	last := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{house}})
	first := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{door}})
	first.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // so that only this one is dialled each time
		http.Redirect(w, r, last.URL, http.StatusFound)
	})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{
		Url: first.URL, FollowRedirects: true, Tls: &picketv1.TLSOptions{InsecureSkipVerify: true},
	})
	for range 2 {
		r := within(t, p, patient)
		wantResult(t, r, "healthy", "")
		if got := r.GetCertificateNotAfter().AsTime(); !got.Equal(later) {
			t.Errorf("certificate ends %v, want %v", got, later)
		}
	}
}

func TestLostClientCertificateIsOurFault(t *testing.T) {
	t.Parallel()
	pair, ca, key := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	server := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert})
	p := compileHTTP(t, newPool(t, PoolOptions{}), &picketv1.HTTPSpec{Url: server.URL, Tls: &picketv1.TLSOptions{CaFile: ca, CertFile: ca, KeyFile: key}})
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	wantResult(t, within(t, p, patient), "unknown", "own_fault")
}

func TestTransportsAreSharedAndForgotten(t *testing.T) {
	t.Parallel()
	pool := newPool(t, PoolOptions{})
	a, err := pool.transports(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pool.transports(&picketv1.TLSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := pool.transports(&picketv1.TLSOptions{ServerName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if a != b || a == c {
		t.Errorf("defaults share: %v; others share: %v", a == b, a == c)
	}
	runtime.KeepAlive(c)
	eventually(t, "the unused set is forgotten", func() bool {
		runtime.GC()
		pool.mu.Lock()
		defer pool.mu.Unlock()
		return len(pool.sets) == 1
	})
	runtime.KeepAlive(a)
	runtime.KeepAlive(b)
}

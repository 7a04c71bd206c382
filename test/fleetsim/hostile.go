package fleetsim

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// What hostile and broken servers do, beside those that hang and reset. None of it is random: what a prober says of each is
// known.
const (
	ResetAtAccept   Behaviour = iota + Flipping + 1 // resets as soon as it has accepted
	ResetMidBody                                    // resets in the middle of a body
	LargeBody                                       // 10 MB of JSON
	EndlessBody                                     // JSON that goes on for ever
	StallingBody                                    // 900 KB of a body, and then nothing
	DrippingBody                                    // a body of a byte a second
	EndlessHeaders                                  // headers that go on for ever
	DrippingHeaders                                 // headers of a byte a second, as slow-loris clients do
	LargeHeader                                     // one header of 1 MB
	HeaderNoise                                     // control characters in a header
	Cookies                                         // 500 cookies, and a good body
	RedirectLoop                                    // redirects to itself
	EndlessContinue                                 // 100 Continue for ever
	SwitchProtocols                                 // 101 that nobody asked for, and then nothing
	GzipBomb                                        // 100 MB of JSON in 100 KB
	BadGzip                                         // says gzip, is none
	BadEncoding                                     // says br, is none
	BadChunks                                       // chunks without a length
	ShortBody                                       // ends before the length that it said
	LongBody                                        // goes on behind the length that it said
	TwoLengths                                      // says two lengths
	OddStatus                                       // status 999
	BadStatus                                       // a status that is no number
	HTTP09                                          // a body without any head
	Garbage                                         // bytes
	DeepJSON                                        // a JSON array a million deep
	TerminalJSON                                    // JSON whose words speak to terminals
	TLSGarbage                                      // bytes where a TLS handshake is expected
	PlainOnTLS                                      // HTTP where a TLS handshake is expected
	TLSHanging                                      // a TLS handshake that does not go on
	AbsurdDates                                     // a certificate that begins in 9998 and ended in 1950
	lastBehaviour
)

func hostileWords() []string {
	return []string{
		"reset_at_accept", "reset_mid_body", "large_body", "endless_body", "stalling_body", "dripping_body", "endless_headers",
		"dripping_headers", "large_header", "header_noise", "cookies", "redirect_loop", "endless_continue", "switch_protocols", "gzip_bomb",
		"bad_gzip", "bad_encoding", "bad_chunks", "short_body", "long_body", "two_lengths", "odd_status", "bad_status", "http09", "garbage",
		"deep_json", "terminal_json", "tls_garbage", "plain_on_tls", "tls_hanging", "absurd_dates",
	}
}

// Hostile are the behaviours of servers that mean harm or are badly broken. They speak the same on every path.
func Hostile() []Behaviour {
	var all []Behaviour
	for b := Flipping + 1; b < lastBehaviour; b++ {
		all = append(all, b)
	}
	return all
}

func (b Behaviour) hostile() bool { return b > Flipping && b < lastBehaviour }

// overTLS says that the server's address is an https one.
func (b Behaviour) overTLS() bool {
	return slices.Contains([]Behaviour{TLSGarbage, PlainOnTLS, TLSHanging, AbsurdDates}, b)
}

// greets says that the server does not wait for a request.
func (b Behaviour) greets() bool { return b == ResetAtAccept || b.overTLS() }

// dripEvery is how often a dripping server sends a byte.
const dripEvery = time.Second

// weapons are what takes a while to make; each is made once, so that a fleet that attacks costs little.
type weapons struct {
	scripts     func() map[Behaviour]script
	certificate func() tls.Certificate
}

func newWeapons() weapons {
	return weapons{scripts: sync.OnceValue(scripts), certificate: sync.OnceValue(absurdCertificate)}
}

// script is what a server sends whatever it is asked.
type script struct {
	first []byte
	// again follows, so many times; endless.
	again []byte
	times int
	end   func(net.Conn)
}

const endless = 1 << 40

func gzipBomb() []byte {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	_, _ = io.WriteString(zip, `{"status":"`) // into memory
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range 100 {
		_, _ = zip.Write(spaces)
	}
	_ = zip.Close()
	return b.Bytes()
}

// absurdCertificate is empty when none can be made; the handshake fails then.
func absurdCertificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "\x1b[31mabsurd"},
		NotBefore: time.Date(9998, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

const (
	jsonHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	goodBody = `{"status":"ok"}`
)

func scripts() map[Behaviour]script {
	hangUp := func(net.Conn) {}
	wait := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) } // an error of reading is the client's giving up, too
	once := func(text string, end func(net.Conn)) script { return script{first: []byte(text), end: end} }
	sized := func(extra, body string) script {
		return once(fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n%s", jsonHead, extra, len(body), body), hangUp)
	}
	on := func(first, again string, times int) script {
		return script{first: []byte(first), again: []byte(again), times: times, end: hangUp}
	}
	pad := strings.Repeat("x", 64<<10)
	return map[Behaviour]script{
		ResetAtAccept:   once("", reset),
		ResetMidBody:    once(jsonHead+"Content-Length: 1000\r\n\r\n{\"status\":", reset),
		LargeBody:       on(fmt.Sprintf("%sContent-Length: %d\r\n\r\n{\"status\":\"ok\",\"pad\":\"", jsonHead, 23+160*len(pad)), pad, 160),
		EndlessBody:     on(jsonHead+"\r\n{\"pad\":\"", pad, endless),
		StallingBody:    once(jsonHead+"Content-Length: 1000000\r\n\r\n{\"pad\":\""+strings.Repeat("x", 900<<10), wait),
		DrippingBody:    once(jsonHead+"Content-Length: 1000000\r\n\r\n", drip),
		EndlessHeaders:  on(jsonHead, strings.Repeat("X-Pad: "+pad[:1000]+"\r\n", 10), endless),
		DrippingHeaders: once(jsonHead+"X-Pad: ", drip),
		LargeHeader:     sized("X-Large: "+strings.Repeat("x", 1<<20)+"\r\n", goodBody),
		HeaderNoise:     sized("X-Noise: \x00\x01\x1b[31m\x7f\r\n", goodBody),
		Cookies:         sized(strings.Repeat("Set-Cookie: a="+pad[:60]+"; Path=/\r\n", 500), goodBody),
		RedirectLoop:    once("HTTP/1.1 302 Found\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n", hangUp),
		EndlessContinue: on("", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), endless),
		SwitchProtocols: once("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: nothing\r\n\r\n", wait),
		GzipBomb:        sized("Content-Encoding: gzip\r\n", string(gzipBomb())),
		BadGzip:         sized("Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x00 no gzip at all"),
		BadEncoding:     sized("Content-Encoding: br\r\n", "\x0b\x02\x80 no brotli at all"),
		BadChunks:       once(jsonHead+"Transfer-Encoding: chunked\r\n\r\nZZZZ\r\n"+goodBody+"\r\n", hangUp),
		ShortBody:       once(jsonHead+"Content-Length: 1000\r\n\r\n"+goodBody, hangUp),
		LongBody:        once(jsonHead+"Content-Length: 15\r\n\r\n"+goodBody+strings.Repeat("HTTP/1.1 200 OK\r\n", 100), hangUp),
		TwoLengths:      once(jsonHead+"Content-Length: 15\r\nContent-Length: 3\r\n\r\n"+goodBody, hangUp),
		OddStatus:       once("HTTP/1.1 999 Whatever\x1b[31m\r\nContent-Length: 0\r\n\r\n", hangUp),
		BadStatus:       once("HTTP/1.1 9999999999999999999999 OK\r\nContent-Length: 0\r\n\r\n", hangUp),
		HTTP09:          once("<html>hello</html>\n", hangUp),
		Garbage:         once(strings.Repeat("\xff\x00\x1b]0;owned\a\xfe", 1000), hangUp),
		DeepJSON:        sized("", strings.Repeat("[", 1_000_000)),
		TerminalJSON: sized("", `{"status":"critical","service":"\u001b]0;owned\u0007\u202e","database":{"status":"\u001b[2J\n\r\u0000down"},`+
			`"services":{"healthy":false,"\u001b[31mevil\nlevel=ERROR msg=forged":{"status":"\u001b[5mbad"}}}`),
		TLSGarbage: once(strings.Repeat("\xff\x00\x1b]0;owned\a\xfe", 1000), hangUp),
		PlainOnTLS: once("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", hangUp),
		TLSHanging: once("", wait),
	}
}

// attack does to a connection what the behaviour says, and returns when that is over or the client has given up.
func (f *Fleet) attack(conn net.Conn, behaviour Behaviour) {
	if behaviour == AbsurdDates {
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{f.weapons.certificate()}, MinVersion: tls.VersionTLS12})
		_, _ = secure.Read(make([]byte, 1<<10)) // shakes hands; nobody should get further
		return
	}
	script := f.weapons.scripts()[behaviour]
	_, err := conn.Write(script.first)
	for n := 0; n < script.times && err == nil; n++ {
		_, err = conn.Write(script.again)
	}
	if err == nil {
		script.end(conn)
	}
}

// reset has the connection end in a reset when it is closed.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // without it the end is a friendly one, that is all
	}
}

// drip sends a byte now and then for ever.
func drip(conn net.Conn) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	defer func() { conn.Close(); <-gone }()
	ticker := time.NewTicker(dripEvery)
	defer ticker.Stop()
	for {
		if _, err := conn.Write([]byte("x")); err != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-gone:
			return
		}
	}
}

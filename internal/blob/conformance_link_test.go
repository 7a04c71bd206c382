package blob_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/picketd/picket/internal/blob"
)

type answer struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, link, byteRange string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		request.Header.Set("Range", byteRange)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

func testLink(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	upload, err := store.Create(t.Context(), name, blob.CreateOptions{ContentType: "text/csv; charset=utf-8", ContentEncoding: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, upload, []byte("0123456789"))
	if _, err := upload.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	link, err := store.Link(t.Context(), name, time.Minute, `für "alle".csv`)
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, link, "")
	if got.status != http.StatusOK || got.body != "0123456789" {
		t.Errorf("%d %q", got.status, got.body)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/csv; charset=utf-8", "Content-Encoding": "zstd",
		"Content-Disposition": "attachment; filename*=utf-8''f%C3%BCr%20%22alle%22.csv",
	} {
		if got.header.Get(header) != want {
			t.Errorf("%s: got %q, want %q", header, got.header.Get(header), want)
		}
	}
	if part := get(t, link, "bytes=3-5"); part.status != http.StatusPartialContent || part.body != "345" {
		t.Errorf("range: %d %q", part.status, part.body)
	}
	// Another process' links are as good.
	other, err := store.again(t).Link(t.Context(), name, 7*24*time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, other, ""); got.status != http.StatusOK || got.header.Get("Content-Disposition") != "attachment" {
		t.Errorf("%d %v", got.status, got.header)
	}
	for _, ttl := range []time.Duration{0, -time.Second, time.Millisecond, 7*24*time.Hour + time.Second} {
		if _, err := store.Link(t.Context(), name, ttl, ""); err == nil {
			t.Errorf("a link for %v", ttl)
		}
	}
	if err := store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if got := get(t, link, ""); got.status != http.StatusNotFound {
		t.Errorf("after the delete: %d", got.status)
	}
}

func testLinkExpires(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	put(t, store, name, []byte("x"))
	link, err := store.Link(t.Context(), name, time.Second, "")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for get(t, link, "").status != http.StatusForbidden {
		if time.Now().After(deadline) {
			t.Fatal("it does not expire")
		}
		<-poll.C
	}
}

func testLinkTampered(t *testing.T, store bench) {
	name := keyOf(t, ".csv")
	put(t, store, name, []byte("x"))
	put(t, store, name+"2", []byte("another's"))
	link, err := store.Link(t.Context(), name, time.Minute, "a.csv")
	if err != nil {
		t.Fatal(err)
	}
	if got := get(t, link, ""); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string]string{
		"key":    strings.Replace(link, ".csv?", ".csv2?", 1),
		"no key": strings.Replace(link, name, "", 1),
	}
	for parameter, values := range u.Query() {
		query := u.Query()
		other := "1" + values[0]
		if len(values[0]) > 8 { // the same length, other text
			last := values[0][len(values[0])-3]
			other = strings.Replace(values[0], string(last), map[bool]string{true: "8", false: "7"}[last == '7'], 1)
		}
		query.Set(parameter, other)
		v := *u
		v.RawQuery = query.Encode()
		changed["changed "+parameter] = v.String()
		query.Del(parameter)
		v.RawQuery = query.Encode()
		changed["without "+parameter] = v.String()
	}
	for what, link := range changed {
		if got := get(t, link, ""); got.status != http.StatusForbidden && got.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s\n%s", what, got.status, got.body, link)
		}
	}
}

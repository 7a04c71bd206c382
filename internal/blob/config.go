package blob

import (
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Config says where objects are kept: in the object store when an endpoint is set, else in a directory.
type Config struct {
	Endpoint       string `env:"S3_ENDPOINT" desc:"Object store with the S3 API, as a URL; empty: exports are kept in a directory."`
	PublicEndpoint string `env:"S3_PUBLIC_ENDPOINT" desc:"The same store as people reach it; download links are signed for it. Empty: S3_ENDPOINT."`
	Bucket         string `env:"S3_BUCKET" desc:"Bucket of the exports."`
	Region         string `env:"S3_REGION" desc:"Region of the bucket; it is part of every signature."`
	AccessKey      string `env:"S3_ACCESS_KEY" desc:"Access key of the object store." secret:"true"`
	SecretKey      string `env:"S3_SECRET_KEY" desc:"Secret key of the object store." secret:"true"`
	CreateBucket   bool   `env:"PICKET_S3_CREATE_BUCKET" desc:"Make the bucket when it is missing."`
	Dir            string `env:"PICKET_EXPORT_DIR" desc:"Directory of the exports when S3_ENDPOINT is empty; the exporter and the api need the same one."`
}

// DefaultConfig returns the defaults, of which no endpoint and no directory are part.
func DefaultConfig() Config {
	return Config{Bucket: "exports", Region: "us-east-1", CreateBucket: true}
}

// LinkBase is where the api serves the objects of a directory.
const LinkBase = "/api/v1/fleet/exports/objects/"

// Options are what [Open] needs. Zero values mean the defaults.
type Options struct {
	Config Config
	// LinkBase is what links to objects of a directory begin with: a path with a slash at its end, or a URL with such a
	// path. Links of an object store begin with its public endpoint. Default: [LinkBase].
	LinkBase string
	// Timeout bounds a request that moves no data, with all its repetitions, and how long a download may stand still.
	// Default: 30 s.
	Timeout time.Duration
	// TransferTimeout bounds the upload of one part, with all its repetitions, and the making of an object out of its
	// parts. Default: 3 min.
	TransferTimeout time.Duration
	// PartSize is how many bytes are uploaded at once, 5 MiB at least; an upload holds two parts in memory and has
	// 10,000 at most. Default: 8 MiB, so objects of 78 GiB.
	PartSize int
}

const (
	minPart  = 5 << 20 // S3's, for all parts but the last
	maxParts = 10_000  // S3's
)

func (o Options) withDefaults() Options {
	if o.LinkBase == "" {
		o.LinkBase = LinkBase
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.TransferTimeout <= 0 {
		o.TransferTimeout = 3 * time.Minute
	}
	if o.PartSize <= 0 {
		o.PartSize = 8 << 20
	}
	return o
}

// Validate returns everything that is wrong with the settings, naming the variables.
func (c Config) Validate() error {
	if c.Endpoint == "" {
		if c.Dir == "" {
			return errors.New("neither S3_ENDPOINT nor PICKET_EXPORT_DIR is set")
		}
		return nil
	}
	var faults []error
	if _, err := parseEndpoint(c.Endpoint); err != nil {
		faults = append(faults, fmt.Errorf("S3_ENDPOINT: %w", err))
	}
	if c.PublicEndpoint != "" {
		if _, err := parseEndpoint(c.PublicEndpoint); err != nil {
			faults = append(faults, fmt.Errorf("S3_PUBLIC_ENDPOINT: %w", err))
		}
	}
	for _, setting := range []struct{ name, value string }{
		{"S3_BUCKET", c.Bucket}, {"S3_REGION", c.Region}, {"S3_ACCESS_KEY", c.AccessKey}, {"S3_SECRET_KEY", c.SecretKey},
	} {
		if setting.value == "" {
			faults = append(faults, fmt.Errorf("%s is empty, S3_ENDPOINT is set", setting.name))
		}
	}
	return errors.Join(faults...)
}

// parseEndpoint accepts a scheme and a host. A path would not be part of what the client signs.
func parseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return nil, errors.New("not a URL") // the error would repeat a password in it
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("it has to begin with http:// or https://")
	case u.Hostname() == "":
		return nil, errors.New("it has no host")
	case u.User != nil:
		return nil, errors.New("keys do not go into the address but into S3_ACCESS_KEY and S3_SECRET_KEY")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("it goes on after the host: a store below a path is not supported")
	}
	return u, nil
}

// Open makes the store that the settings name. It does not talk to an object store, so a service starts without one and
// [Store.Ping] says how it is. It makes a directory that is missing.
func Open(options Options) (Store, error) {
	if err := options.Config.Validate(); err != nil {
		return nil, err
	}
	options = options.withDefaults()
	if options.Config.Endpoint == "" {
		return openDir(options)
	}
	return openS3(options)
}

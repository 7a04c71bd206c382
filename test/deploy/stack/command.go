package stack

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// Command is a container of the file as a program of this machine.
type Command struct {
	Path      string
	Args, Env []string
}

// Command returns how a container of a service is run: the first one where the file says that it listens, further replicas
// on free ports. Wires say where, for this one, host:port of the file is in the place of where it is for all; nil: nowhere.
func (s *Stack) Command(name string, replica int, wires map[string]string) Command {
	s.t.Helper()
	service, known := s.Project.Services[name]
	if !known {
		s.t.Fatalf("the file has no service %s", name)
	}
	command := Command{Env: s.environment(name, replica, wires)}
	args := slices.Concat(service.Entrypoint, service.Command)
	switch program, ours := Own(service); {
	case ours:
		command.Path = s.opts.Program(importPath(program))
	case name == "nats":
		command.Path = s.opts.Program(NATSServer)
		_, port, _ := net.SplitHostPort(s.Address("nats:4222"))
		_, monitor, _ := net.SplitHostPort(s.Address("nats:8222"))
		args = append(args, "-a", "127.0.0.1", "-p", port, "-m", monitor)
	case name == "s3" && s.s3 != "":
		command.Path = s.s3
	case OneShot(s.Project, name):
		command.Path, args = args[0], args[1:]
	default:
		s.t.Fatalf("nothing here plays %s", name)
	}
	for _, argument := range args {
		command.Args = append(command.Args, s.here(name, argument, replica, wires))
	}
	return command
}

// environment is what the file tells a service.
func (s *Stack) environment(name string, replica int, wires map[string]string) []string {
	s.t.Helper()
	env := []string{"PATH=" + s.path, "HOME=" + s.dir}
	told := maps.Clone(s.Project.Services[name].Environment)
	if _, without := s.Missing["s3"]; without && told["S3_ENDPOINT"] != nil {
		maps.DeleteFunc(told, func(variable string, _ *string) bool { return strings.HasPrefix(variable, "S3_") })
		exports := filepath.Join(s.dir, "exports")
		told["PICKET_EXPORT_DIR"] = &exports
	}
	for variable, value := range told {
		if value != nil {
			env = append(env, variable+"="+s.here(name, *value, replica, wires))
		}
	}
	if _, ours := Own(s.Project.Services[name]); ours {
		env = append(env, s.owned...)
	}
	return env
}

var hostPort = regexp.MustCompile(`\b([a-z][a-z0-9-]*:\d{4,5})\b`)

// translate puts this machine's addresses in the place of the file's.
func (s *Stack) translate(text string, wires map[string]string) string {
	return hostPort.ReplaceAllStringFunc(text, func(found string) string {
		if wire, ok := wires[found]; ok {
			return wire
		}
		if address, ok := s.addresses[found]; ok {
			return address
		}
		if port, local := strings.CutPrefix(found, "localhost:"); local {
			for of, address := range s.addresses {
				if strings.HasSuffix(of, ":"+port) {
					return address
				}
			}
		}
		return found
	})
}

// here translates what the file says of places. A value may hold several.
func (s *Stack) here(name, value string, replica int, wires map[string]string) string {
	s.t.Helper()
	// What it listens on, at any address there and at loopback here.
	for _, anywhere := range []string{"0.0.0.0:", ":"} {
		port, listens := strings.CutPrefix(value, anywhere)
		if address := s.addresses[name+":"+port]; listens && address != "" {
			if replica > 0 {
				return FreeAddress(s.t)
			}
			return address
		}
	}
	value = s.translate(value, wires)
	for _, volume := range s.Project.Services[name].Volumes {
		rest, within := strings.CutPrefix(value, volume.Target)
		if !within || rest != "" && rest[0] != '/' {
			continue
		}
		switch {
		case volume.Type == types.VolumeTypeVolume:
			return s.Volume(volume.Source) + rest
		case filepath.Base(volume.Source) == "config":
			return s.opts.Config + rest
		default:
			return volume.Source + rest
		}
	}
	return value
}

// Volume is the directory of a named volume.
func (s *Stack) Volume(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, "volume-"+name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

package deploy_test

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/picketd/picket/test/deploy/stack"
)

// loadCompose loads deploy/compose.yaml with the given .env.
func loadCompose(t *testing.T, envFile string) *types.Project {
	t.Helper()
	project, err := stack.Load(root, envFile)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// TestComposeLoads: with what deploy/secrets makes, and with nothing besides; without it, it is refused in words that help.
func TestComposeLoads(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), ".env")
	made := stack.Secrets(t, file)
	project := loadCompose(t, file)
	for _, name := range append(users(), "nats", "timescaledb", "s3", "prometheus", "grafana") {
		if _, ok := project.Services[name]; !ok {
			t.Errorf("no service %s", name)
		}
	}

	empty := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := stack.Load(root, empty); err == nil || !strings.Contains(err.Error(), "run deploy/secrets") {
		t.Errorf("without secrets: %v", err)
	}

	// Every variable is either a secret that is made, or has a default that is written down.
	text, err := os.ReadFile(filepath.Join(root, "deploy", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	variables := regexp.MustCompile(`\$\{?([A-Z0-9_]+)(:[-?])?`).FindAllStringSubmatch(string(text), -1)
	used := map[string]bool{}
	for _, variable := range variables {
		name, form := variable[1], variable[2]
		used[name] = true
		_, secret := made[name]
		switch {
		case secret && form != ":?":
			t.Errorf("%s is a secret and may be left out", name)
		case !secret && form != ":-":
			t.Errorf("%s is neither made by deploy/secrets nor has it a default", name)
		}
	}
	for name := range made {
		if !used[name] {
			t.Errorf("deploy/secrets makes %s, which nothing uses", name)
		}
	}
}

// TestContainersAreHardened: each runs as somebody without privileges, on a file system it cannot write to, within
// limits, from an image with a tag that stays.
func TestContainersAreHardened(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), ".env")
	stack.Secrets(t, file)
	project := loadCompose(t, file)
	for name, service := range project.Services {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uid, _, _ := strings.Cut(service.User, ":")
			number, err := strconv.Atoi(uid)
			if err != nil || number == 0 && name != "volumes" {
				t.Errorf("runs as user %q", service.User)
			}
			// The one exception gives volumes to their users, without a network.
			if name == "volumes" && (!slices.Equal(service.CapAdd, []string{"CHOWN"}) || service.NetworkMode != "none") {
				t.Errorf("may more than to change owners: %v, network %q", service.CapAdd, service.NetworkMode)
			}
			if name != "volumes" && len(service.CapAdd) > 0 {
				t.Errorf("adds capabilities %v", service.CapAdd)
			}
			if !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) ||
				!slices.Contains(service.SecurityOpt, "no-new-privileges:true") || service.Privileged {
				t.Error("is not read-only, without capabilities and without new privileges")
			}
			if service.Deploy == nil || service.Deploy.Resources.Limits == nil || service.Deploy.Resources.Limits.MemoryBytes == 0 ||
				service.Deploy.Resources.Limits.NanoCPUs == 0 || service.Deploy.Resources.Limits.Pids == 0 {
				t.Error("has no limits of memory, processors and processes")
			}
			_, tag, tagged := strings.Cut(filepath.Base(service.Image), ":")
			if !tagged || tag == "latest" || !regexp.MustCompile(`\d+\.\d+`).MatchString(tag) && service.Build == nil {
				t.Errorf("image %s has no tag that stays", service.Image)
			}
			if service.ContainerName != "" {
				t.Errorf("has the name %s, so there can be only one", service.ContainerName)
			}
			if _, ours := stack.Own(service); ours && name != "api" && len(service.Ports) > 0 {
				t.Errorf("has a port of the host, so there can be only one")
			}
			for _, port := range service.Ports {
				if port.HostIP != "127.0.0.1" {
					t.Errorf("port %s is open to everybody by default", port.Published)
				}
			}
			switch ends := stack.OneShot(project, name); {
			case ends && (service.Restart != "" || service.HealthCheck != nil):
				t.Error("runs once, and has a health check or is restarted")
			case !ends && (service.HealthCheck == nil || service.Restart != "unless-stopped"):
				t.Error("has no health check or is not restarted")
			}
			for other, dependency := range service.DependsOn {
				want := types.ServiceConditionHealthy
				if stack.OneShot(project, other) {
					want = types.ServiceConditionCompletedSuccessfully
				}
				if dependency.Condition != want {
					t.Errorf("waits for %s to be %s, want %s", other, dependency.Condition, want)
				}
			}
			for _, volume := range service.Volumes {
				if volume.Type == types.VolumeTypeBind && !volume.ReadOnly {
					t.Errorf("may write to %s of the host", volume.Source)
				}
				if volume.Type == types.VolumeTypeBind {
					if _, err := os.Stat(volume.Source); err != nil {
						t.Errorf("mounts what is not there: %v", err)
					}
				}
			}
		})
	}
}

var settingLine = regexp.MustCompile(`(?m)^  ([A-Z][A-Z0-9_]+) `)

// TestServicesKnowTheirVariables: what the stack tells a service is among what the program itself says it can be told.
func TestServicesKnowTheirVariables(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), ".env")
	stack.Secrets(t, file)
	for name, service := range loadCompose(t, file).Services {
		program, ours := stack.Own(service)
		if !ours || program == "demo" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			known := settings(t, program)
			for variable := range service.Environment {
				if variable != "PICKET_CONFIG" && !strings.HasPrefix(variable, "OTEL_") && !slices.Contains(known, variable) {
					t.Errorf("%s is told %s and does not know it", name, variable)
				}
			}
			if want := []string{"/program", "-healthy"}; service.HealthCheck == nil || !slices.Equal(service.HealthCheck.Test[1:], want) {
				t.Errorf("health is asked by %v, want %v", service.HealthCheck.Test, want)
			}
		})
	}
}

// settings are the variables that a program lists in its own help.
func settings(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), serviceProgram(t, program), "-help").CombinedOutput()
	if err != nil {
		t.Fatalf("%s -help: %v\n%s", program, err, out)
	}
	if len(bytes.TrimSpace(out)) == 0 {
		t.Skipf("%s is not written yet", program)
	}
	var names []string
	for _, match := range settingLine.FindAllStringSubmatch(string(out), -1) {
		names = append(names, match[1])
	}
	return names
}

// TestImageBuild: what the Dockerfile runs builds a program in a clean copy of the repository, static and with its version.
func TestImageBuild(t *testing.T) {
	t.Parallel()
	dockerfile, err := os.ReadFile(filepath.Join(root, "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(dockerfile), `deploy/build "$SERVICE" /out/program "$VERSION"`) {
		t.Fatal("the Dockerfile does not run deploy/build: this test builds something else")
	}
	if testing.Short() {
		t.Skip("compiles everything anew, minutes when the cache is cold")
	}
	copied := t.TempDir()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-co", "--exclude-standard", "-z")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Skipf("no git repository to take a clean copy of: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		copyFile(t, filepath.Join(root, name), filepath.Join(copied, name))
	}
	program := filepath.Join(t.TempDir(), "program")
	build := exec.CommandContext(t.Context(), filepath.Join(copied, "deploy", "build"), "catalog", program, "v1.2.3-test")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said, err := exec.CommandContext(t.Context(), program, "-version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(said)) != "catalog v1.2.3-test" {
		t.Errorf("its version is %q, %v", said, err)
	}
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // it was only read
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("needs a dynamic linker, which the image has not")
		}
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte(copied)) {
		t.Error("holds the path of the machine that built it")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if os.IsNotExist(err) {
		return // deleted, and not yet committed so
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

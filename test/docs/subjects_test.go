package docs_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/picketd/picket/internal/bus"
	"github.com/picketd/picket/internal/wire"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

const subjectsPage = "docs/subjects.md"

// strings of the constants of a room whose names begin with a prefix, by name.
func constants(t *testing.T, dir, prefix string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, file := range sources(t, dir, false) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if strings.HasPrefix(name.Name, prefix) && i < len(spec.Values) {
					if text, ok := literal(spec.Values[i]); ok {
						found[name.Name] = text
					}
				}
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatalf("no constants %s… in %s", prefix, dir)
	}
	return found
}

func literal(e ast.Expr) (string, bool) {
	basic, ok := e.(*ast.BasicLit)
	if !ok || basic.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(basic.Value)
	return text, err == nil
}

func values(m map[string]string) []string {
	var list []string
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// Every family of subjects that the code knows has its row, and each subject in the table is one of that family.
func TestSubjectsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	var listed []string
	placeholder := regexp.MustCompile(`<([a-z]+)>`)
	examples := strings.NewReplacer("<status>", "unreachable", "<org>", "default")
	for _, row := range rows(section(t, read(t, subjectsPage), "## Subjects")) {
		form := quoted(row[0])
		if len(form) != 1 {
			t.Errorf("row %q does not name one subject", row[0])
			continue
		}
		parsed, err := bus.ParseSubject(placeholder.ReplaceAllString(examples.Replace(form[0]), "$1"))
		if err != nil {
			t.Error(err)
			continue
		}
		listed = append(listed, parsed.Family)
	}
	same(t, "families of subjects", values(constants(t, "internal/bus", "Family")), listed)
}

// made is a stream as internal/bus makes it.
type made struct {
	subjects []string
	kept     time.Duration
}

// madeStreams reads the calls in the function that lists the streams.
func madeStreams(t *testing.T) map[string]made {
	t.Helper()
	names := constants(t, "internal/bus", "Stream")
	found := map[string]made{}
	for _, file := range sources(t, "internal/bus", false) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 4 {
				return true
			}
			if function, ok := call.Fun.(*ast.Ident); !ok || function.Name != "stream" {
				return true
			}
			name, ok := call.Args[0].(*ast.Ident)
			if !ok {
				t.Fatal("a stream whose name is no constant")
			}
			stream := made{kept: duration(t, call.Args[2])}
			for _, argument := range call.Args[3:] {
				subject, ok := literal(argument)
				if !ok {
					if ident, known := argument.(*ast.Ident); !known || ident.Name != "ClockSubject" {
						t.Fatalf("stream %s has a subject that is no literal", name.Name)
					}
					subject = bus.ClockSubject
				}
				stream.subjects = append(stream.subjects, subject)
			}
			found[names[name.Name]] = stream
			return true
		})
	}
	return found
}

func duration(t *testing.T, e ast.Expr) time.Duration {
	t.Helper()
	const day = 24 * time.Hour
	switch e := e.(type) {
	case *ast.Ident:
		switch e.Name {
		case "day":
			return day
		case "EventAge":
			return bus.EventAge
		}
	case *ast.BinaryExpr:
		if n, ok := e.X.(*ast.BasicLit); ok && e.Op == token.MUL {
			if times, err := strconv.Atoi(n.Value); err == nil {
				return time.Duration(times) * duration(t, e.Y)
			}
		}
	}
	t.Fatalf("age %T of a stream is not understood", e)
	return 0
}

// Every stream has its row, with its subjects and how long it keeps a message.
func TestStreamsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	want := map[string]made{}
	for name, stream := range madeStreams(t) {
		slices.Sort(stream.subjects)
		want[name] = stream
	}
	same(t, "streams", values(constants(t, "internal/bus", "Stream")), slices.Collect(func(yield func(string) bool) {
		for name := range want {
			if !yield(name) {
				return
			}
		}
	}))
	got := map[string]made{}
	for _, row := range rows(section(t, read(t, subjectsPage), "## Streams")) {
		var hours int
		if n, err := fmt.Sscanf(row[2], "%d h", &hours); err != nil || n != 1 {
			t.Errorf("%s: %q is not a number of hours", row[0], row[2])
		}
		stream := made{subjects: quoted(row[1]), kept: time.Duration(hours) * time.Hour}
		slices.Sort(stream.subjects)
		got[quoted(row[0])[0]] = stream
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(made{})); diff != "" {
		t.Errorf("streams (-code +page):\n%s", diff)
	}
}

func TestBucketsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	var listed []string
	for _, row := range rows(section(t, read(t, subjectsPage), "## Buckets")) {
		listed = append(listed, quoted(row[0])[0])
	}
	same(t, "buckets", values(constants(t, "internal/bus", "Bucket")), listed)
}

// Every message of the contract is described, and nothing that is none.
func TestMessagesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	var messages, listed []string
	protoregistry.GlobalFiles.RangeFilesByPackage(picketv1.File_picket_v1_probe_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			messages = append(messages, string(f.Messages().Get(i).Name()))
		}
		return true
	})
	for _, row := range rows(section(t, read(t, subjectsPage), "## Messages")) {
		listed = append(listed, quoted(row[0])...)
	}
	same(t, "messages", messages, listed)
}

var example = regexp.MustCompile("(?m)^<!-- (\\w+)(?: (\\w+\\.json))? -->\n```json\n(.*)\n```$")

// What is shown is what travels: each example is the JSON form of its message, and where it has a golden file, that.
func TestExamples(t *testing.T) {
	t.Parallel()
	page := read(t, subjectsPage)
	examples := example.FindAllStringSubmatch(page, -1)
	if fences := strings.Count(page, "```json"); len(examples) != fences || fences < 5 {
		t.Errorf("%d of %d examples say what they are", len(examples), fences)
	}
	for _, match := range examples {
		name, golden, line := match[1], match[2], match[3]
		kind, err := protoregistry.GlobalTypes.FindMessageByName(picketv1.File_picket_v1_probe_proto.Package().Append(protoreflect.Name(name)))
		if err != nil {
			t.Error(err)
			continue
		}
		message := kind.New().Interface()
		if err := wire.UnmarshalJSON([]byte(line), message); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := wire.AppendJSON(nil, message)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(string(again), line); diff != "" {
			t.Errorf("%s is written otherwise (-code +page):\n%s", name, diff)
		}
		if golden != "" {
			if want := strings.TrimSpace(read(t, filepath.Join("internal/wire/testdata", golden))); want != line {
				t.Errorf("%s (-golden +page):\n%s", golden, cmp.Diff(want, line))
			}
		}
	}
}

package house_test

import (
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"

	_ "github.com/picketd/picket/proto/picket/v1" // registers what was generated
)

// The checked-in Go code is of the .proto files beside it. `make contract` generates it anew and compares byte by byte,
// which takes tools that take minutes to build; this takes a moment and finds a forgotten `make gen`.
func TestGeneratedContractIsFresh(t *testing.T) {
	t.Parallel()
	source := filepath.Join("..", "..", "proto")
	entries, err := os.ReadDir(filepath.Join(source, "picket", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == ".proto" {
			names = append(names, path.Join("picket/v1", entry.Name()))
		}
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{source}}),
	}
	compiled, err := compiler.Compile(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	if len(compiled) == 0 {
		t.Fatal("no .proto files found")
	}
	for _, file := range compiled {
		generated, err := protoregistry.GlobalFiles.FindFileByPath(file.Path())
		if err != nil {
			t.Errorf("%s has no generated code: %v", file.Path(), err)
			continue
		}
		difference := cmp.Diff(protodesc.ToFileDescriptorProto(file), protodesc.ToFileDescriptorProto(generated), protocmp.Transform())
		if difference != "" {
			t.Errorf("%s and its generated code differ, run `make gen` (-source +generated):\n%s", file.Path(), difference)
		}
	}
}

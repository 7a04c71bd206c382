package api

import (
	"testing"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

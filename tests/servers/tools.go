//go:build tools

// Package servers pins the storage servers of the tests as ordinary module requirements, so that go.sum
// vouches for each of them.
package servers

import (
	_ "github.com/distribution/distribution/v3/cmd/registry"
	_ "github.com/fsouza/fake-gcs-server"
	_ "github.com/versity/versitygw/cmd/versitygw"
)

//go:build tools

// Package kwok pins the program that makes pods Ready without a node.
package kwok

import _ "sigs.k8s.io/kwok/cmd/kwok"

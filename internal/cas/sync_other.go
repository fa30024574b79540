//go:build !linux

package cas

const syncsWholeFS = false

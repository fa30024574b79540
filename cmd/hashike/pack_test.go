package main

import (
	"testing"

	"github.com/hashike/hashike/packager"
)

func TestVolumeSize(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "usb": packager.WholeMedium, "dvd": 4480 << 20, "bd25": 23_000 << 20, "fat32": 32_000 << 20,
		"100MiB": 100 << 20, "1TB": 1e12, "64GB": 64e9, "4GiB": 4 << 30, "1TiB": 1 << 40,
	} {
		if got, err := volumeSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "10MiB", "-1GB", "3TB", "99999999999GB", "1 GB", "GB", "0GB"} {
		if got, err := volumeSize(text); err == nil {
			t.Errorf("%s is taken as %d", text, got)
		}
	}
}

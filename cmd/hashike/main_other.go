//go:build !windows

package main

func start(args []string) int { return foreground(args) }

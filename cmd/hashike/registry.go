package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/packager/registry"
)

// pushCommand and pullCommand carry a bundle through an OCI registry. They
// need no data directory: the bundle is signed, and import judges it.
func (a *app) pushCommand() *cobra.Command {
	return &cobra.Command{Use: "push DIR REF", Short: a.cat.T("cmd.push"), Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, v []string) error {
		return a.viaRegistry(c.Context(), "push.done", v[1], func(ctx context.Context) (registry.Report, error) { return registry.Push(ctx, v[0], v[1]) })
	}}
}

func (a *app) pullCommand() *cobra.Command {
	return &cobra.Command{Use: "pull REF DIR", Short: a.cat.T("cmd.pull"), Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, v []string) error {
		return a.viaRegistry(c.Context(), "pull.done", v[0], func(ctx context.Context) (registry.Report, error) { return registry.Pull(ctx, v[0], v[1]) })
	}}
}

func (a *app) viaRegistry(ctx context.Context, done, ref string, carry func(context.Context) (registry.Report, error)) error {
	r, err := carry(ctx)
	if errors.Is(err, feed.ErrTransient) || errors.Is(err, feed.ErrConfig) {
		return feed.NewFault(err, "H-306", "ref", ref, "detail", err.Error())
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, a.cat.T(done, ref, r.Blobs, bytesText(r.Bytes), r.Digest))
	return nil
}

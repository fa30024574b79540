package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hashike/hashike/mirror"
)

// exportCommand keeps a plain tree of installers for file shares.
func (a *app) exportCommand() *cobra.Command {
	var to, ring string
	c := &cobra.Command{Use: "export FEED --to DIR", Short: a.cat.T("cmd.export"), Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return a.with("export", inside, func(s *station) error { return s.export(c.Context(), args[0], ring, to) })
	}}
	c.Flags().StringVar(&to, "to", "", a.cat.T("flag.export-to"))
	c.Flags().StringVar(&ring, "ring", "all", a.cat.T("flag.export-ring"))
	_ = c.MarkFlagRequired("to")
	return c
}

func (s *station) export(ctx context.Context, name, ring, to string) error {
	f, err := s.cfg.Feed(name)
	if err != nil {
		return err
	}
	x, err := mirror.Export(ctx, mirror.ExportOptions{Data: s.dir, Store: s.store, Setup: f, Ring: ring, To: to})
	detail := map[string]string{"feed": name, "ring": ring, "files": fmt.Sprint(len(x.Items)), "written": fmt.Sprint(x.Written), "removed": fmt.Sprint(x.Removed)}
	if aerr := s.audit("export", err, detail); err == nil {
		err = aerr
	}
	if err != nil {
		return err
	}
	for _, i := range x.Items {
		fmt.Fprintln(s.out, "  "+s.cat.T("export.item", i.Name, i.Version, i.File))
	}
	fmt.Fprintln(s.out, s.cat.T("export.done", name, len(x.Items), x.Written, bytesText(x.Bytes), x.Removed, to))
	return nil
}

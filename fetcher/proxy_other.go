//go:build !windows

package fetcher

import "golang.org/x/net/http/httpproxy"

// systemProxy adds nothing where the environment is all there is.
func systemProxy(c *httpproxy.Config) *httpproxy.Config { return c }

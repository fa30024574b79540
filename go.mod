module github.com/hashike/hashike

go 1.26.0

require (
	github.com/klauspost/compress v1.20.1
	go.etcd.io/bbolt v1.5.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/stretchr/testify v1.12.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

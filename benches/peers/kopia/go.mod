module example.org/peers/kopia
go 1.26
require github.com/kopia/kopia v0.23.1

package main

func large(l *lab) error     { return nil }
func small(l *lab) error     { return nil }
func memory(l *lab) error    { return nil }
func giant(l *lab) error     { return nil }
func unchanged(l *lab) error { return nil }
func start(l *lab) error     { return nil }
func carry(l *lab) error     { return nil }
func fetch(l *lab) error     { return nil }

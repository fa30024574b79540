package cas

const syncsWholeFS = true

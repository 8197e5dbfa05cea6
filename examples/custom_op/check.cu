// The same program for a GPU.
#include "check.cpp"

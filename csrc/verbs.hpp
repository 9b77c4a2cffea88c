// The verbs as the binding calls them: plan the work, share it among threads, finish.
#pragma once

#include "job.hpp"

namespace evenkeel {

// Each takes a job whose plan is still empty; results go where the job's targets point.
void run_moments(Job job, Index threads);
void run_normalize(Job job, Index threads);
void run_backward_reduce(Job job, Index threads);
void run_backward_input(Job job, Index threads);
void run_forward(Job job, Index threads);
void run_backward(Job job, Index threads);

}  // namespace evenkeel
